"""How Ray's own commands are adjusted for a small machine."""

from typing import Any

import pytest

from autoglm_operator.local.patient_ray import adjusted, patient


def test_the_raylet_is_told_the_port_that_its_agent_was_told() -> None:
    command = ["/ray/raylet/raylet", "--x=1", "--dashboard_agent_command=python agent.py --listen-port=1234 --y"]
    assert adjusted(command) == [*command, "--dashboard_agent_listen_port=1234"]


@pytest.mark.parametrize("agent", ["--dashboard_agent_command=python agent.py --listen-port=0", "--other"])
def test_a_port_that_is_not_known_is_left_to_ray(agent: str) -> None:
    assert adjusted(["raylet", agent]) == ["raylet", agent]


def test_the_dashboard_loads_what_the_operator_asks_and_nothing_else() -> None:
    (added,) = set(adjusted(["python", "/ray/dashboard/dashboard.py"])) - {"python", "/ray/dashboard/dashboard.py"}
    assert added == "--modules-to-load=ServeHead,JobHead,ReportHead"


def test_other_processes_start_as_ray_wants() -> None:
    for command in (["gcs_server", "--listen-port=5"], []):
        assert adjusted(command) == command


def test_a_node_that_registers_late_is_waited_for() -> None:
    answers: list[Any] = [RuntimeError("not yet"), {"node": 1}]

    def get_node(address: str) -> Any:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer, address

    assert patient(get_node)("here") == ({"node": 1}, "here")

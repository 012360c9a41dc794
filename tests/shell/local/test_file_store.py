"""The store of `autoglm up`: the same promises as the API server's, on files."""

import json
from pathlib import Path
from typing import Any

import pytest

from autoglm_operator.local.manifest import Manifest, read
from autoglm_operator.local.process_group import (
    Identity,
    ProcessGroup,
    clean_up_after_crash,
    make_temp_dir,
    write_record,
)
from autoglm_operator.local.state_dir import AlreadyRunning, StateDir
from autoglm_operator.local.store import FileStore, read_objects
from autoglm_operator.store import DEPLOYMENT, Conflict, ObjectKey
from support import manifests
from support.processes import wait_until

KEY = ObjectKey(DEPLOYMENT, "default", "phones")


def manifest(**spec: Any) -> Manifest:
    import yaml

    return read(yaml.safe_dump(manifests.deployment(**spec)))


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    store = FileStore(tmp_path / "objects", "here")
    assert store.apply(manifest().objects, {}) == (KEY,)
    return store


async def get(store: FileStore) -> dict[str, Any]:
    raw = await store.get(KEY)
    assert raw is not None
    return raw


async def test_applying_the_same_again_changes_nothing(store: FileStore) -> None:
    before = await get(store)
    assert store.apply(manifest().objects, {}) == ()
    assert await get(store) == before


async def test_a_changed_spec_raises_the_generation_and_keeps_identity_and_status(store: FileStore) -> None:
    before = await get(store)
    await store.patch_status(before, DEPLOYMENT, {"replicas": 1})
    assert store.apply(manifest(replicas=2).objects, {}) == (KEY,)
    after = await get(store)
    assert after["metadata"]["generation"] == before["metadata"]["generation"] + 1
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after["status"] == {"replicas": 1}


async def test_a_write_on_something_older_is_a_conflict(store: FileStore) -> None:
    seen = await get(store)
    store.apply(manifest(replicas=2).objects, {})
    with pytest.raises(Conflict):
        await store.patch_status(seen, DEPLOYMENT, {})
    with pytest.raises(Conflict):
        await store.set_finalizers(seen, DEPLOYMENT, ("x",))


async def test_what_left_the_file_stays_until_its_last_finalizer_is_gone(store: FileStore) -> None:
    raw = await store.set_finalizers(await get(store), DEPLOYMENT, ("x",))
    assert store.apply({}, {}) == (KEY,)
    raw = await get(store)
    assert raw["metadata"]["deletionTimestamp"]
    assert store.apply({}, {}) == (), "asked for once"
    await store.set_finalizers(raw, DEPLOYMENT, ())
    assert await store.get(KEY) is None
    assert await store.list_all(DEPLOYMENT) == ()


async def test_the_next_run_keeps_identities_and_forgets_statuses(store: FileStore, tmp_path: Path) -> None:
    before = await get(store)
    await store.patch_status(before, DEPLOYMENT, {"replicas": 1})
    again = FileStore(tmp_path / "objects", "here")
    again.apply(manifest().objects, {})
    after = await get(again)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]
    assert after.get("status") is None


async def test_files_are_what_the_store_has_and_only_for_the_user(store: FileStore, tmp_path: Path) -> None:
    assert read_objects(tmp_path / "objects") == {KEY: await get(store)}
    (path,) = (tmp_path / "objects").glob("*.json")
    assert path.stat().st_mode & 0o077 == 0
    path.write_text("broken")
    assert read_objects(tmp_path / "objects") == {}


def test_a_state_folder_has_one_user_at_a_time(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    with state.lock(), pytest.raises(AlreadyRunning, match="autoglm down"):
        state.lock()
    with state.lock():
        assert state.next_epoch() + 1 == state.next_epoch()


def test_a_group_takes_its_grandchildren_with_it(tmp_path: Path) -> None:
    note = tmp_path / "pid"
    script = f"setsid sleep 1000 & echo $! > {note}; wait"
    group = ProcessGroup(["sh", "-c", script], {"PATH": "/usr/bin:/bin"}, tmp_path / "log")
    try:
        wait_until(lambda: note.exists() and note.read_text().endswith("\n"), "the grandchild runs")
        assert group.running
        before = sleepers()
        assert before, "the grandchild is seen"
    finally:
        group.stop(1.0)
    if group.namespaced:
        wait_until(lambda: not sleepers() & before, "the grandchild left its session and ended all the same")
    assert not group.running


def sleepers() -> set[int]:
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if (entry / "cmdline").read_bytes() == b"sleep\x001000\0":
                    found.add(int(entry.name))
            except OSError:
                continue
    return found


def test_what_a_killed_process_left_is_ended_once_and_nothing_else_is(tmp_path: Path) -> None:
    record, temp_dir = tmp_path / "record.json", make_temp_dir()
    group = ProcessGroup(["sleep", "500"], {"PATH": "/usr/bin:/bin"}, tmp_path / "log")
    try:
        write_record(record, group, temp_dir)
        assert clean_up_after_crash(record)
        assert not group.running
        assert not temp_dir.exists()
        assert not record.exists()
        assert not clean_up_after_crash(record)
    finally:
        group.stop(0)


def test_a_reused_process_id_is_not_taken_for_the_old_process(tmp_path: Path) -> None:
    group = ProcessGroup(["sleep", "500"], {"PATH": "/usr/bin:/bin"}, tmp_path / "log")
    try:
        assert group.identity.alive()
        assert not Identity(group.pid, "1").alive()
        (tmp_path / "record.json").write_text(json.dumps({"pid": group.pid, "started": "1", "tempDir": "/etc"}))
        assert not clean_up_after_crash(tmp_path / "record.json")
        assert group.running
        assert Path("/etc").is_dir()
    finally:
        group.stop(0)
    (tmp_path / "record.json").write_text("half a rec")
    assert not clean_up_after_crash(tmp_path / "record.json")


async def test_a_state_folder_names_itself_once_and_for_all(tmp_path: Path) -> None:
    here, there = StateDir(tmp_path / "here"), StateDir(tmp_path / "there")
    for state in (here, there):
        state.make()
    assert here.identity() == StateDir(tmp_path / "here").identity() != there.identity()
    assert await FileStore(here.objects, here.identity()).identity() == here.identity()

"""Which document a screen shows depends on the seed alone; languages that are not ours are told from names, marks and signs."""

from hypothesis import given
from hypothesis import strategies as st

from autoglm_serving.screens.documents import Document, Folder, language_of, moves_on, named_language, views
from autoglm_serving.screens.records import Element
from autoglm_serving.screens.tasks import Seen, unambiguous


def folder(name: str, count: int) -> Folder:
    return tuple(Document(f"/{name}/{number}.html", f"{number}.html") for number in range(count))


@given(st.integers(), st.integers(0, 10_000))
def test_the_same_seed_shows_the_same_documents_in_the_same_way(seed: int, number: int) -> None:
    folders = (folder("a", 5), folder("b", 2))
    first = views(folders, 50, seed, number)
    assert first == views(folders, 50, seed, number)
    assert all(each.place is None or 0 <= each.place < 1 for each in first)
    assert {each.device.kind for each in first} <= {"phone", "tablet", "desktop"}


def test_so_many_screens_in_a_hundred_show_documents_and_folders_have_equal_shares() -> None:
    found = [views((folder("large", 90), folder("small", 2)), 30, 7, number) for number in range(3000)]
    shown = [each[0] for each in found if each]
    assert 800 < len(shown) < 1000
    small = sum(each.document.path.startswith("/small") for each in shown)
    assert 0.45 < small / len(shown) < 0.55
    assert {each.theme for each in shown} == {"light", "dark"}


def test_without_folders_no_screen_shows_a_document() -> None:
    assert not any(views((), 100, 7, number) for number in range(50))


def test_most_tasks_are_asked_in_the_language_of_the_document() -> None:
    asked = [view for number in range(500) for view in views((folder("a", 3),), 100, 1, number)]
    other = [each for each in asked if each.translated]
    assert 0.1 < len(other) / len(asked) < 0.2
    assert other[0].instruct("en") == "zh"
    assert other[0].instruct("zh") == "en"
    assert next(each for each in asked if not each.translated).instruct("zh") == "zh"


def test_a_name_tells_its_language() -> None:
    assert named_language("guide.de.html/ch1.html") == "de"
    assert named_language("ch02.zh-cn.html") == "zh"
    assert named_language("FAQ/index.en.html") == "en"
    assert named_language("guide.html/ch1.html") is None
    assert named_language("index.js.html") is None
    assert named_language("README.md.html") is None
    assert named_language("guide.de.html/README.md.html") == "de"
    assert named_language("python3.11/library/os.html") is None


def test_the_signs_of_a_page_count_more_than_what_it_says_of_itself() -> None:
    assert language_of("", "Installing packages") == "en"
    assert language_of("en-US", "安装软件包 apt") == "zh"
    assert language_of("zh-CN", "Installing") == "en"
    assert language_of("de", "Pakete installieren") is None
    assert language_of("", "パッケージのインストール") is None
    assert language_of("en", "Установка пакетов") is None
    assert language_of("", "") == "en"


def test_a_page_that_goes_on_by_itself_is_known() -> None:
    assert moves_on(b'<META HTTP-EQUIV="Refresh" content="0; url=x.html">')
    assert not moves_on(b'<meta http-equiv="content-type" content="text/html">')


def test_a_name_that_the_prose_says_a_second_time_means_two_things() -> None:
    elements = tuple(Element(f"e{number}", "link", text, (0, 0, 9, 9)) for number, text in enumerate(("apt", "dpkg")))
    seen = Seen(100, 100, elements, (), (), ("apt", "dpkg", "before apt there was nothing"))
    assert [each.text for each in unambiguous(seen)] == ["dpkg"]


def test_the_prose_says_a_name_also_where_it_wraps_or_carries_markup() -> None:
    elements = tuple(
        Element(f"e{number}", "link", text, (0, 0, 9, 9)) for number, text in enumerate(("Blue moon", "7"))
    )
    seen = Seen(100, 100, elements, (), (), ("About blue", "mo", "on", "Blue moon", "7", "page 7 of 77"))
    assert [each.text for each in unambiguous(seen)] == ["7"], "a digit is named exactly"

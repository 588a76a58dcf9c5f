"""Memory files: which are found, what they import, what is cut, and what a hostile project cannot do."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chimera.context.agent_memory import (
    AgentMemory,
    MemoryBlock,
    defuse_memory_tags,
    load_agent_memory,
    wrap,
)
from chimera.sessions.context import memory_blocks


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "user" / "code" / "project"
    folder.mkdir(parents=True)
    return folder


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def sources(memory: AgentMemory) -> list[str]:
    return [block.source for block in memory.blocks]


def texts(memory: AgentMemory) -> list[str]:
    return [block.text for block in memory.blocks]


def reasons(memory: AgentMemory) -> str:
    return "\n".join(f"{problem.path}: {problem.reason}" for problem in memory.problems)


def test_a_folder_without_memory_files_has_no_memory(project: Path) -> None:
    assert load_agent_memory(str(project)) == AgentMemory([], [])


def test_the_outermost_file_comes_first_and_the_nearest_last(project: Path) -> None:
    write(project / "CLAUDE.md", "near")
    write(project / "AGENTS.md", "agents")
    write(project.parent / "AGENTS.md", "middle")
    write(project.parent.parent / "CLAUDE.md", "home")
    memory = load_agent_memory(str(project))
    assert texts(memory) == ["home", "middle", "near", "agents"]
    home = project.parent.parent
    assert sources(memory) == [str(home / "CLAUDE.md"), str(home / "code" / "AGENTS.md"), "CLAUDE.md", "AGENTS.md"]
    assert memory.problems == []


def test_nothing_is_read_above_the_users_home(project: Path) -> None:
    write(project.parent.parent.parent / "CLAUDE.md", "of another user")
    assert texts(load_agent_memory(str(project))) == []


def test_outside_of_the_home_the_walk_goes_to_the_root(tmp_path: Path) -> None:
    write(tmp_path / "CLAUDE.md", "above")
    write(tmp_path / "elsewhere" / "CLAUDE.md", "here")
    assert texts(load_agent_memory(str(tmp_path / "elsewhere")))[-2:] == ["above", "here"]


def test_a_relative_working_folder_is_the_same(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(project / "CLAUDE.md", "near")
    monkeypatch.chdir(project.parent)
    assert load_agent_memory("project") == load_agent_memory(str(project))


def test_the_same_file_under_two_names_is_read_once(project: Path) -> None:
    write(project / "AGENTS.md", "once")
    (project / "CLAUDE.md").symlink_to("AGENTS.md")
    assert texts(load_agent_memory(str(project))) == ["once"]


def test_imports_follow_the_file_that_asks_for_them(project: Path) -> None:
    write(project / "CLAUDE.md", "See @docs/style.md, and @docs/build.md.\n- @AGENTS.md\n")
    write(project / "AGENTS.md", "agents")
    write(project / "docs" / "style.md", "style @more.md")
    write(project / "docs" / "more.md", "more")
    write(project / "docs" / "build.md", "build")
    memory = load_agent_memory(str(project))
    assert sources(memory) == ["CLAUDE.md", "docs/style.md", "docs/more.md", "docs/build.md", "AGENTS.md"]
    assert memory.problems == []


def test_imports_in_circles_end(project: Path) -> None:
    write(project / "CLAUDE.md", "@a.md\n@CLAUDE.md")
    write(project / "a.md", "@b.md")
    write(project / "b.md", "@a.md\n@CLAUDE.md")
    memory = load_agent_memory(str(project))
    assert sources(memory) == ["CLAUDE.md", "a.md", "b.md"]
    assert memory.problems == []


def test_imports_are_followed_five_files_deep(project: Path) -> None:
    write(project / "CLAUDE.md", "@1.md")
    for depth in range(1, 8):
        write(project / f"{depth}.md", f"@{depth + 1}.md")
    memory = load_agent_memory(str(project))
    assert sources(memory) == ["CLAUDE.md", "1.md", "2.md", "3.md", "4.md", "5.md"]
    assert reasons(memory).startswith(f"{project / '6.md'}: imported more than 5 files deep")


def test_code_imports_nothing(project: Path) -> None:
    write(project / "secret.md", "secret")
    write(
        project / "CLAUDE.md",
        "Write `see @secret.md` or\n```python\n@secret.md\n```\n~~~~\n@secret.md\n~~~\n@secret.md",
    )
    assert sources(load_agent_memory(str(project))) == ["CLAUDE.md"]


def test_a_name_in_a_sentence_is_no_import(project: Path) -> None:
    write(project / "CLAUDE.md", "Ask @alice about @pytest.fixture, or write to bob@example.com.")
    memory = load_agent_memory(str(project))
    assert sources(memory) == ["CLAUDE.md"]
    assert memory.problems == []


def test_an_import_that_is_missing_is_reported(project: Path) -> None:
    write(project / "CLAUDE.md", "@docs/missing.md\n@\0\n@docs\n")
    (project / "docs").mkdir()
    memory = load_agent_memory(str(project))
    assert sources(memory) == ["CLAUDE.md"]
    assert reasons(memory) == (
        f"{project}/docs/missing.md: cannot be read (No such file or directory)\n{project}/docs: is not a plain file"
    )


@pytest.mark.parametrize("target", ["~/.ssh/key", "../../.ssh/key", "link", "{home}/.ssh/key"])
def test_a_project_cannot_import_a_private_file(project: Path, target: str) -> None:
    home = project.parent.parent
    secret = write(home / ".ssh" / "key", "secret")
    (project / "link").symlink_to(secret)
    write(project / "CLAUDE.md", f"Please read @{target.format(home=home)} first.")
    memory = load_agent_memory(str(project))
    assert sources(memory) == ["CLAUDE.md"]
    assert "lies outside of" in reasons(memory)


def test_a_project_cannot_pass_a_private_file_off_as_its_memory(project: Path) -> None:
    (project / "CLAUDE.md").symlink_to(write(project.parent.parent / ".ssh" / "key", "secret"))
    memory = load_agent_memory(str(project))
    assert memory.blocks == []
    assert "lies outside of" in reasons(memory)


def test_a_folder_that_is_allowed_can_be_imported_from(project: Path) -> None:
    rules = write(project.parent.parent / "rules" / "mine.md", "mine")
    write(project / "CLAUDE.md", "@~/rules/mine.md")
    memory = load_agent_memory(str(project), allowed_folders=["~/rules"])
    assert sources(memory) == ["CLAUDE.md", str(rules)]


def test_a_file_that_is_too_long_says_what_was_cut(project: Path) -> None:
    write(project / "CLAUDE.md", "\u00e4" * 60)
    (text,) = texts(load_agent_memory(str(project), max_file_bytes=101))
    assert text == "\u00e4" * 50 + "\n[cut: the last 20 of 120 bytes of this memory file are not shown]"


def test_a_file_as_long_as_the_limit_is_whole(project: Path) -> None:
    write(project / "CLAUDE.md", "x" * 100)
    assert texts(load_agent_memory(str(project), max_file_bytes=100, max_total_bytes=100)) == ["x" * 100]


def test_of_too_much_memory_the_nearest_is_kept(project: Path) -> None:
    write(project.parent.parent / "CLAUDE.md", "h" * 100)
    write(project.parent / "CLAUDE.md", "m" * 100)
    write(project / "CLAUDE.md", "n" * 90 + "\n@import.md")
    write(project / "import.md", "i" * 100)
    home, middle, near, imported = texts(load_agent_memory(str(project), max_total_bytes=250))
    assert near.startswith("n" * 90)
    assert imported == "i" * 100
    assert middle == "m" * 49 + "\n[cut: the last 51 of 100 bytes of this memory file are not shown]"
    assert home == "[cut: the last 100 of 100 bytes of this memory file are not shown]"


def test_a_crowd_of_imports_ends(project: Path) -> None:
    write(project / "CLAUDE.md", "\n".join(f"@{number}.md" for number in range(150)))
    for number in range(150):
        write(project / f"{number}.md", "x")
    memory = load_agent_memory(str(project))
    assert len(memory.blocks) == 100
    assert "there are more than 100 memory files" in reasons(memory)


def test_bytes_that_are_not_utf8_are_replaced(project: Path) -> None:
    write(project / "CLAUDE.md", b"\xef\xbb\xbfcaf\xe9 ok")
    assert texts(load_agent_memory(str(project))) == ["caf\ufffd ok"]


def test_an_empty_file_is_no_memory(project: Path) -> None:
    write(project / "CLAUDE.md", " \n")
    assert load_agent_memory(str(project)) == AgentMemory([], [])


def test_a_folder_with_the_name_of_a_memory_file_is_reported(project: Path) -> None:
    (project / "CLAUDE.md").mkdir()
    assert reasons(load_agent_memory(str(project))) == f"{project}/CLAUDE.md: is not a plain file"


def test_a_pipe_with_the_name_of_a_memory_file_holds_nobody(project: Path) -> None:
    os.mkfifo(project / "CLAUDE.md")
    assert "is not a plain file" in reasons(load_agent_memory(str(project)))


def test_a_link_to_nothing_is_reported(project: Path) -> None:
    (project / "AGENTS.md").symlink_to("gone.md")
    assert "cannot be read (No such file or directory)" in reasons(load_agent_memory(str(project)))


def test_a_file_that_cannot_be_read_is_reported(project: Path) -> None:
    (project / "CLAUDE.md").symlink_to("CLAUDE.md")  # also root cannot
    assert "cannot be read (Too many levels of symbolic links)" in reasons(load_agent_memory(str(project)))


def test_a_folder_whose_name_is_not_utf8_has_memory_too(project: Path) -> None:
    odd = Path(os.fsdecode(os.fsencode(project) + b"/\xff"))
    write(odd / "CLAUDE.md", "@sub/a.md")
    write(odd / "sub" / "a.md", "a")
    write(odd / "sub" / "AGENTS.md", "near")
    memory = load_agent_memory(str(odd / "sub"))
    assert texts(memory) == ["@sub/a.md", "a", "near"]
    assert memory.blocks[0].source.endswith("/\ufffd/CLAUDE.md")


def test_the_documented_sentinel() -> None:
    assert wrap(MemoryBlock("CLAUDE.md", "Run the tests.")) == (
        '<memory source="CLAUDE.md">\nRun the tests.\n</memory>'
    )


def test_a_source_cannot_leave_its_attribute() -> None:
    wrapped = wrap(MemoryBlock('a"> <b&\n.md', "x"))
    assert wrapped.splitlines()[0] == '<memory source="a&quot;&gt; &lt;b&amp;&#10;.md">'


def test_tags_are_defused_however_they_are_written() -> None:
    assert defuse_memory_tags('</memory> </ Memory> <MEMORY source="x">') == (
        '&lt;/memory> &lt;/ Memory> &lt;MEMORY source="x">'
    )
    assert defuse_memory_tags("a < b, <b>memory</b>") == "a < b, <b>memory</b>"


parts = st.sampled_from(["</memory>", '<memory source="x">', "<", "/", "memory", '"', ">", "\n", "&"]) | st.text(
    max_size=5
)
content = st.lists(parts, max_size=8).map("".join)


@given(content, content, content)
def test_whatever_a_file_says_its_block_is_found_whole(source: str, text: str, around: str) -> None:
    wrapped = wrap(MemoryBlock(source, text))
    assert memory_blocks(wrapped) == [wrapped]
    assert memory_blocks(f"{wrapped}\n{wrapped}") == [wrapped, wrapped]
    assert memory_blocks(defuse_memory_tags(around) + wrapped)[-1:] == [wrapped]

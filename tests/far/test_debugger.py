"""What a far side's debugger says and asks, in order."""

from __future__ import annotations

from easycluster.far import debugger


def test_a_prompt_comes_with_the_question_for_a_line_and_not_before(monkeypatch):
    """Who sees a prompt may press Ctrl-C at once, which means the prompt only while a line is read."""
    said = []
    answers = iter(["p 1 + 1\n", "\x03", "c\n"])

    def tell(action, text):
        said.append((action, text))
        return next(answers) if action == "line" else ""

    monkeypatch.setattr(debugger, "_tell", tell)

    debugger._open("set_trace").set_trace()

    kinds = [action for action, _ in said]
    assert kinds[0] == "begin"
    assert kinds.count("line") == 3
    assert kinds[-1] == "continue"
    for action, text in said:
        assert text.endswith("(Pdb) ") if action == "line" else "(Pdb)" not in text
    shown = "".join(text for action, text in said if action in ("say", "line"))
    assert "(Pdb) 2\n(Pdb) --KeyboardInterrupt--\n(Pdb) " in shown


def test_what_is_said_without_an_end_of_line_is_there_when_it_goes_on(monkeypatch):
    said = []
    monkeypatch.setattr(debugger, "_tell", lambda action, text: said.append((action, text)))
    lines = debugger._Lines()

    lines.write("one\ntwo")
    lines.flush()
    assert said == [("say", "one\n")]
    lines.end()
    assert said == [("say", "one\n"), ("say", "two")]

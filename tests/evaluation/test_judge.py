"""The judge, against a server in this process that may be slow, busy, broken or talk nonsense."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ctwa.chat import client as module
from ctwa.chat.ledger import ReplyFolder
from ctwa.errors import CtwaError
from ctwa.evaluation.config import JudgeConfig
from ctwa.evaluation.judge import Duel, Judgement, judge, notes, prompt_of
from tests.chat.endpoint import Server, completion

KEY = "sk-very-secret-1234"
DUELS = [Duel(row, f"question {row}", f"ours {row}", f"theirs {row}") for row in range(4)]


@pytest.fixture
def ask(server: Server, tmp_path: Path) -> Callable[..., list[Judgement]]:
    def ask(duels: list[Duel] = DUELS, **options: Any) -> list[Judgement]:
        config = JudgeConfig(**{"base_url": server.url, "model": "m", **options})
        return judge(duels, config, ReplyFolder(tmp_path / "judge"), lambda _: None)

    return ask


def first_of(body: dict[str, Any]) -> str:
    """Whose completion stands first in a request."""
    text = body["messages"][-1]["content"]
    return "ours" if text.index("ours") < text.index("theirs") else "theirs"


def prefers(who: str) -> Callable[[dict[str, Any], int], tuple[int, str]]:
    return lambda body, _: (200, f"Because. [[{'A' if first_of(body) == who else 'B'}]]")


def kept_in(folder: Path) -> list[Path]:
    return [path for path in (folder / "judge").rglob("*") if path.is_file()]


class TestOutcomes:
    @pytest.mark.parametrize(
        ("reply", "outcome", "score"),
        [
            (prefers("ours"), "win", 1.0),
            (prefers("theirs"), "loss", 0.0),
            (lambda *_: (200, "[[tie]]"), "tie", 0.5),
            (lambda *_: (200, "[[A]]"), "disagreement", 0.5),
            (lambda body, _: (200, "[[A]]" if first_of(body) == "ours" else "[[tie]]"), "disagreement", 0.5),
            (lambda body, _: (200, "[[A]]" if first_of(body) == "ours" else "Both are fine."), "unparsed", None),
            (lambda *_: (200, {"choices": [{"message": {"content": None}}]}), "unparsed", None),
        ],
    )
    def test_both_orders_make_the_outcome(self, ask, server: Server, reply, outcome: str, score: float | None) -> None:
        server.reply = reply

        assert [(each.row, each.outcome, each.score) for each in ask()] == [(row, outcome, score) for row in range(4)]
        assert len(server.requests) == 8

    def test_the_same_text_twice_is_a_tie_that_is_not_asked(self, ask, server: Server) -> None:
        (judgement,) = ask([Duel(0, "question", "the same", "the same")])

        assert (judgement.outcome, judgement.score, server.requests) == ("identical", 0.5, [])

    def test_what_does_not_count_is_shown(self, ask, server: Server) -> None:
        server.reply = lambda *_: (200, "Both are fine.")

        lines = notes("tuned", ask())
        assert lines[0] == "tuned: 4 unparsed. Answers without a verdict: no verdict 8."
        assert lines[1] == "tuned, row 0 does not count (no verdict): 'Both are fine.'"

    def test_a_cut_off_answer_is_no_verdict_and_stays_none_in_the_cache(self, ask, server: Server) -> None:
        good = prefers("ours")
        server.reply = lambda body, attempt: (
            (200, completion("[[tie]]", "length")) if first_of(body) == "theirs" else good(body, attempt)
        )

        for _ in range(2):
            judgements = ask()
            assert [(each.outcome, each.reasons) for each in judgements] == [("unparsed", ("", "cut off"))] * 4
        assert len(server.requests) == 8
        assert "cut off 4. Raise judge.max_tokens" in notes("tuned", judgements)[0]


class TestRequests:
    def test_temperature_and_seed_are_fixed_and_further_fields_added(self, ask, server: Server) -> None:
        ask(seed=7, system="Be fair.", extra_body={"max_tokens": None, "max_completion_tokens": 50})

        for body in server.requests:
            assert (body["model"], body["temperature"], body["seed"]) == ("m", 0, 7)
            assert body["messages"][0] == {"role": "system", "content": "Be fair."}
            assert body["max_completion_tokens"] == 50
            assert "max_tokens" not in body

    def test_a_completion_that_looks_like_a_field_stays_as_it_is(self, ask, server: Server) -> None:
        ask([Duel(0, "{first}", "ours {second} {prompt}", "theirs {0}")])

        texts = [body["messages"][0]["content"] for body in server.requests]
        assert all("ours {second} {prompt}" in text and "theirs {0}" in text for text in texts)
        assert all("[Request]\n{first}\n" in text for text in texts)

    def test_conversations_say_who_speaks(self) -> None:
        one = [{"role": "user", "content": "hello"}]

        assert prompt_of({"prompt": "text"}) == "text"
        assert prompt_of({"prompt": one}) == "hello"
        assert prompt_of({"prompt": [{"role": "system", "content": "be brief"}, *one]}) == (
            "system: be brief\n\nuser: hello"
        )


class TestTrouble:
    @pytest.mark.parametrize(
        "trouble",
        [(429, {}), (503, b"<html>busy</html>"), (200, b"junk"), (200, {"choices": []}), (200, completion(7))],
    )
    def test_what_may_pass_is_asked_again(self, ask, server: Server, trouble: tuple[int, Any]) -> None:
        good = prefers("ours")
        server.reply = lambda body, attempt: trouble if attempt < 3 else good(body, attempt)

        assert [each.outcome for each in ask(max_attempts=3)] == ["win"] * 4
        assert len(server.requests) == 3 * 8

    def test_a_server_that_says_when_is_asked_then(self, ask, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[float] = []
        wait = module._wait
        monkeypatch.setattr(module, "_wait", lambda state: waits.append(wait(state)) or 0.0)
        server.headers = {"retry-after": "7"}
        server.reply = lambda _, attempt: (429, {}) if attempt == 1 else (200, "[[tie]]")
        ask()

        assert waits == [7.0] * 8

    def test_a_slow_answer_is_not_waited_for(self, ask, server: Server) -> None:
        def reply(body: dict[str, Any], attempt: int) -> tuple[int, str]:
            if attempt == 1:
                server.released.wait()
            return 200, "[[tie]]"

        server.reply = reply
        assert [each.outcome for each in ask(DUELS[:1], timeout=0.2)] == ["tie"]

    @pytest.mark.parametrize(
        ("trouble", "said"),
        [((429, {"error": "slow down"}), "status 429"), ((200, b"<html>"), "what is no answer: <html>")],
    )
    def test_a_server_that_does_not_recover_stops_the_evaluation(self, ask, server: Server, trouble, said: str) -> None:
        server.reply = lambda *_: trouble

        with pytest.raises(CtwaError, match=f"did not answer in 2 attempts, at last: {said}"):
            ask(max_attempts=2)

    def test_no_server_at_all(self, ask) -> None:
        with pytest.raises(CtwaError, match="did not answer in 2 attempts, at last: ConnectError"):
            ask(base_url="http://127.0.0.1:9/v1", max_attempts=2)

    def test_a_refusal_of_one_request_is_counted_and_not_kept(self, ask, server: Server) -> None:
        server.reply = lambda body, _: (400, {"error": "too long"}) if "ours 2" in str(body) else (200, "[[tie]]")

        assert [each.outcome for each in ask()] == ["tie", "tie", "refused", "tie"]
        before = len(server.requests)
        server.reply = lambda *_: (200, "[[tie]]")
        assert [each.outcome for each in ask()] == ["tie"] * 4
        assert len(server.requests) == before + 2

    def test_a_refusal_of_every_request_stops(self, ask, server: Server) -> None:
        server.reply = lambda *_: (400, {"error": "unknown field seed"})

        with pytest.raises(CtwaError, match=r"every request, the first with: status 400: .*unknown field seed"):
            ask()


class TestCache:
    def test_nothing_is_asked_twice(self, ask, server: Server) -> None:
        server.reply = prefers("ours")
        first = ask()

        assert ask() == first
        assert len(server.requests) == 8

    def test_another_question_is_another_request(self, ask, server: Server) -> None:
        ask()
        ask(seed=1)

        assert len(server.requests) == 16

    def test_a_broken_off_evaluation_goes_on(self, ask, server: Server, tmp_path: Path) -> None:
        server.reply = lambda body, _: (500, {}) if "ours 3" in str(body) else (200, "[[tie]]")
        with pytest.raises(CtwaError, match="the answers so far are kept"):
            ask(max_attempts=1, concurrency=1)
        kept = len(kept_in(tmp_path))
        before = len(server.requests)
        server.reply = lambda *_: (200, "[[tie]]")

        assert [each.outcome for each in ask()] == ["tie"] * 4
        assert kept > 0
        assert len(server.requests) - before == 8 - kept

    def test_a_reply_that_was_not_written_to_its_end_is_asked_for_again(
        self, ask, server: Server, tmp_path: Path
    ) -> None:
        ask()
        path = kept_in(tmp_path)[0]
        path.write_bytes(path.read_bytes()[:-5])
        ask()

        assert len(server.requests) == 9


class TestKey:
    @pytest.fixture(autouse=True)
    def set_key(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("JUDGE_KEY", KEY)

    def test_it_is_sent_in_its_header_and_nowhere_written(
        self, ask, server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.reply = lambda *_: (200, f"Your key is {KEY}. [[A]]")
        judgements = ask(api_key_env="JUDGE_KEY")

        assert set(server.authorizations) == {f"Bearer {KEY}"}
        assert len(kept := kept_in(tmp_path)) == 8
        assert not [path for path in kept if KEY in path.read_text()]
        assert KEY not in str(judgements)
        assert KEY not in caplog.text

    def test_a_server_that_repeats_it_in_a_complaint_is_quoted_without_it(self, ask, server: Server) -> None:
        server.reply = lambda *_: (401, {"error": f"Incorrect API key provided: {KEY}"})

        with pytest.raises(CtwaError, match=r"status 401.*\[key\].*check judge.base_url") as error:
            ask(api_key_env="JUDGE_KEY")
        assert KEY not in str(error.value)
        assert error.value.__cause__ is None

    def test_a_wrong_key_is_tried_once(self, ask, server: Server) -> None:
        server.reply = lambda *_: (401, {})
        with pytest.raises(CtwaError):
            ask(api_key_env="JUDGE_KEY", concurrency=1)

        assert len(server.requests) == 1

    def test_a_variable_that_is_not_set_is_named(self, ask, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("JUDGE_KEY")

        with pytest.raises(CtwaError, match="names JUDGE_KEY, which is not set"):
            ask(api_key_env="JUDGE_KEY")

    def test_without_one_no_header_is_sent(self, ask, server: Server) -> None:
        ask()

        assert set(server.authorizations) == {None}

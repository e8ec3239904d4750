"""Several workers answer as one process would, whoever of them ends, and however: no row is lost, none doubled, nobody is left behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count, islice
from multiprocessing.connection import wait

import pytest

from mlx_distill.errors import BackendError, CheckpointError
from mlx_distill.inference import crew as module
from mlx_distill.inference import hands
from mlx_distill.inference.crew import AHEAD, FUTILE, LEAST, MOST, Crew, Desk
from mlx_distill.inference.hands import TOGETHER
from mlx_distill.inference.posts import Post, posts
from mlx_distill.memory import largest_bytes, resident_bytes
from mlx_distill.records import BadRow, Example, Prediction
from tests.echoes import PEAK, Opens
from tests.processes import children

DEADLY = {
    "signal SIGKILL": "killed by SIGKILL",
    "error CUDA error: an illegal memory access was encountered": "RuntimeError: CUDA error: an illegal memory access was encountered",
    f"allocate {64 << 30}": "MemoryError",
    "exit the device is gone": "it ended with exit code 7: some library: the device is gone",
}
"""Texts that are a worker's end, and what is said of it."""


def crew(number: int = 2, opens: Opens | None = None, said: list[str] | None = None) -> Crew:
    """Each worker knows itself by its device: 0, 1, ..."""
    devices = [str(i) for i in range(number)]
    return Crew(opens or Opens(), posts(number, os.environ, devices=devices, cores=2), say=(said if said is not None else []).append)


def rows(number: int, start: int = 0) -> list[Example]:
    return [Example(f"r{i}", {}, f"text {i}", line=i + 1) for i in range(start, start + number)]


def deadly(text: str) -> Example:
    return Example("deadly", {}, text, line=77)


def ids(found: Sequence[Prediction | BadRow]) -> list[str]:
    return sorted(str(row.id) for row in found)


def until_all_are_there(desk: Desk, workers: int) -> Iterator[int]:
    """How many rows of a long stream are answered, until each worker has answered one."""
    met: set[str] = set()
    for number, row in enumerate(desk.stream(Example(f"r{i}", {}, "text") for i in range(1_000_000)), start=1):
        assert isinstance(row, Prediction)
        met.add(str(row.answer["at"]))
        yield number
        if len(met) == workers:
            return
    raise AssertionError(f"{met} answered all")


@pytest.fixture(autouse=True)
def nobody_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


def test_every_row_is_answered_once_and_a_bad_one_comes_back() -> None:
    bad = BadRow("not JSON", 3)
    with crew() as both:
        found = list(both.desk("water").stream([*rows(200), bad, *rows(200, 200)]))
    assert ids(found) == ids([*rows(400), bad])
    answers = {row.id: row.answer for row in found if isinstance(row, Prediction)}
    assert all(answers[row.id]["text"] == row.text for row in rows(400))


def test_every_worker_has_rows_as_soon_as_it_has_begun() -> None:
    with crew(3) as all_three:
        assert sum(1 for _ in until_all_are_there(all_three.desk("water"), 3)) >= 3


def test_of_an_endless_input_no_more_is_taken_than_the_workers_have_before_them() -> None:
    taken = count()
    with crew() as both:
        stream = both.desk("water").stream(Example(f"r{next(taken)}", {}, "text") for _ in iter(int, 1))
        for answered in range(1, 1000):
            next(stream)
            assert next(taken) <= answered + 2 * (AHEAD + MOST) + 1000
        stream.close()


def test_long_texts_are_taken_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WINDOW_CHARS", 1000)
    monkeypatch.setattr(module, "AHEAD_CHARS", 2000)
    taken = count()
    with crew() as both:
        stream = both.desk("water").stream(Example(f"r{next(taken)}", {}, "x" * 900) for _ in iter(int, 1))
        next(stream)
        assert next(taken) <= 2 * 4 + 4
        stream.close()


def test_answers_are_heard_while_the_input_is_still_read() -> None:
    """It is a slow one: it has no next row before somebody has answered one that it gave."""
    found: list[Prediction | BadRow] = []

    def slow() -> Iterator[Example]:
        for number, row in enumerate(rows(AHEAD)):
            if number >= LEAST and not found:
                wait([hand.connection for hand in alone._hands])
            assert found or number < 3 * LEAST, "so many were read, and nothing was heard"
            yield row

    with crew(1) as alone:
        for result in alone.desk("water").stream(slow()):
            found.append(result)
    assert ids(found) == ids(rows(AHEAD))


def test_a_stream_that_is_broken_off_is_nobody_s_and_the_next_is_whole() -> None:
    with crew(opens=Opens(("water", "fire"))) as both:
        assert len(list(islice(both.desk("water").stream(rows(300)), 5))) == 5
        found = list(both.desk("fire").stream(rows(100, 1000)))
        assert ids(found) == ids(rows(100, 1000))
        assert both.counts("fire").prefill == sum(len(row.text) for row in rows(100, 1000))


def test_counts_and_peaks_are_those_of_all_workers() -> None:
    with crew(opens=Opens(("water", "fire"))) as both:
        for met in until_all_are_there(both.desk("water"), 2):
            assert both.counts("water").prefill >= met * len("text")
        list(both.desk("fire").stream(rows(300)))
        assert both.desk("fire").counts.prefill == sum(len(row.text) for row in rows(300))
        own, peak = largest_bytes(), both.peak_memory()
        assert own <= peak - 2 * PEAK <= largest_bytes()
        assert (both.memory() or 0) > (resident_bytes() or 0) + 2 * 2**20


def test_what_workers_say_when_they_begin_is_heard_once() -> None:
    said: list[str] = []
    with crew(3, said=said) as all_three:
        list(all_three.desk("water").stream(rows(200)))
    assert len(said) == 1 and '"said"' in said[0]


def test_what_workers_note_while_they_answer_is_heard_once() -> None:
    said: list[str] = []
    with crew(opens=Opens(notes=("a kernel is not used", "another is not")), said=said) as both:
        for _ in until_all_are_there(both.desk("water"), 2):
            pass
    assert said[1:] == ["note: a kernel is not used", "note: another is not"]


# workers that end


def test_how_a_worker_ended_is_said_and_a_post_that_answers_in_between_is_never_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """A post may lose one worker here, a row too; each end has its own words."""
    monkeypatch.setattr(module, "FUTILE", 2)
    for place in (module, hands):
        monkeypatch.setattr(place, "TOGETHER", TOGETHER[:1])
    with crew(1) as alone:
        for text in (text for text in DEADLY if sys.platform == "linux" or "allocate" not in text):
            assert ids(list(alone.desk("water").stream(rows(1)))) == ids(rows(1))
            [rejected] = alone.desk("water").stream([deadly(text)])
            assert isinstance(rejected, BadRow) and DEADLY[text] in rejected.reason


def test_what_has_no_room_beside_others_is_answered_alone() -> None:
    said: list[str] = []
    with crew(1, said=said) as one:
        found = list(one.desk("water").stream([*rows(2), Example("large", {}, "alone")]))
    assert ids(found) == ids([*rows(2), Example("large", {}, "alone")]) and all(isinstance(row, Prediction) for row in found)
    assert sum("it has no room beside others" in line for line in said) == 2, "with the others, and once more with them"


def test_a_row_that_ends_every_worker_is_found_with_no_new_rows_beside_it_and_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    """There are more rows, and room for them. Who has that room for 20 is given as many as it has, at most."""
    monkeypatch.setattr(module, "AHEAD", MOST + 20)
    said: list[str] = []
    with crew(1, said=said) as alone:
        found = list(alone.desk("water").stream([*rows(31), deadly("signal SIGKILL"), *rows(100, 31)]))
    had = [int(line.partition(" SIGKILL")[2].partition("; ")[2].split()[0]) for line in said if "was lost" in line]
    assert len(had) == 4 and had[0] <= 20 + 20 and had[1] <= 16 and had[2:] == [1, 1]
    assert ids(found) == ids([*rows(131), deadly("")])
    [rejected] = [row for row in found if isinstance(row, BadRow)]
    assert (rejected.id, rejected.line) == ("deadly", 77)
    assert rejected.reason.startswith("4 workers were lost over it, the last two with no other row beside it: killed by SIGKILL")


def test_several_deadly_rows_are_rejected_and_no_other() -> None:
    ends = [Example(f"deadly {i}", {}, "signal SIGKILL", line=i) for i in range(2)]
    with crew(3) as all_three:
        found = list(all_three.desk("water").stream([ends[0], *rows(40), ends[1], *rows(200, 40)]))
    assert Counter(type(row) for row in found) == {Prediction: 240, BadRow: 2}
    assert {row.id for row in found if isinstance(row, BadRow)} == {"deadly 0", "deadly 1"}


def test_workers_that_are_killed_again_and_again_lose_no_row() -> None:
    """Each time the stream has come on a little, whoever is there is killed: all of them, in turns."""
    found: list[Prediction | BadRow] = []
    killed = Counter[int]()
    with crew() as both:
        for result in both.desk("water").stream(rows(600)):
            found.append(result)
            if len(found) % 150 == 0:
                victim = sorted(children())[len(killed) % 2]
                os.kill(victim, signal.SIGKILL)
                killed[victim] += 1
        assert both.counts("water").prefill >= sum(len(row.text) for row in rows(600)), "what was told of those that are lost counts"
    assert ids(found) == ids(rows(600)) and all(isinstance(row, Prediction) for row in found)
    assert len(killed) == 4


def test_a_post_that_cannot_be_taken_is_given_up_and_the_others_go_on() -> None:
    said: list[str] = []
    with crew(3, Opens(damaged=("1",), crashing=("2",)), said) as others:
        found = list(others.desk("water").stream(rows(100)))
        assert ids(found) == ids(rows(100))
        for _ in others.desk("water").stream([deadly("signal SIGKILL")]):  # and is there nobody else, it is taken again
            pass
    damaged, crashing = ([line for line in said if f"device {i})" in line] for i in (1, 2))
    assert len(damaged) == 1 and "device 1 reads no base (bring it back); its post is given up" in damaged[0], (
        "what it said will not change"
    )
    assert all("killed by SIGKILL" in line for line in crashing)
    assert len(crashing) <= FUTILE


def test_where_no_worker_can_begin_the_first_one_s_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FUTILE", 2)
    with pytest.raises(CheckpointError, match=r"device . reads no base") as found, crew(opens=Opens(damaged=("0", "1"))):
        pytest.fail("it was entered")
    assert found.value.hint == "bring it back"
    with pytest.raises(BackendError, match=r"lost 2 times in a row.*killed by SIGKILL") as crashed, crew(1, Opens(crashing=("0",))):
        pytest.fail("it was entered")
    assert "--workers 1" in str(crashed.value.hint)


def test_what_one_process_would_have_said_of_a_row_is_raised() -> None:
    with crew() as both, pytest.raises(BackendError, match="probabilities are not numbers") as found:
        list(both.desk("water").stream([*rows(20), deadly("refuse probabilities are not numbers")]))
    assert found.value.hint == "mend it"


PARENT = """
import os, signal, sys
from tests.inference.test_crew import children, crew, rows, until_all_are_there
with crew() as both:
    for _ in until_all_are_there(both.desk("water"), 2):
        pass
    list(both.desk("water").stream(rows(20)))
    print(*children(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
"""Its workers have nothing to do when it dies: they wait for rows."""


@pytest.mark.skipif(sys.platform != "linux", reason="who is not this process's child is waited for by Linux alone")
def test_workers_end_with_their_crew_however_that_ends() -> None:
    done = subprocess.run([sys.executable, "-c", PARENT], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    workers = [int(pid) for pid in done.stdout.split()]
    assert len(workers) == 2
    for pid in workers:
        try:
            gone = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        assert select.select([gone], [], [], 60)[0], f"{pid} has outlived its crew"
        os.close(gone)


def test_an_exception_in_the_crew_s_block_ends_the_workers() -> None:
    with pytest.raises(KeyboardInterrupt), crew() as both:
        next(both.desk("water").stream(rows(300)))
        raise KeyboardInterrupt


# where they sit


def environments(number: int, devices: Sequence[str], cores: int, **environment: str) -> list[Post]:
    return posts(number, environment, devices=devices, cores=cores)


def test_each_worker_sees_one_device_and_has_its_share_of_the_cores() -> None:
    one, two = environments(2, ["3", "5"], 9, HOME="h", OMP_NUM_THREADS="2", MKL_NUM_THREADS="64", OPENBLAS_NUM_THREADS="many")
    assert [post.environment["CUDA_VISIBLE_DEVICES"] for post in (one, two)] == ["3", "5"]
    threads = {name: one.environment[f"{name}_NUM_THREADS"] for name in ("OMP", "MKL", "OPENBLAS")}
    assert threads == {"OMP": "2", "MKL": "4", "OPENBLAS": "4"}, "who asks for fewer has fewer"
    assert one.environment["HOME"] == "h"
    [*_, last] = environments(4, [], 2)
    assert last.environment["OMP_NUM_THREADS"] == "1" and "CUDA_VISIBLE_DEVICES" not in last.environment

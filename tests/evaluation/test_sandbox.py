"""Code that a model wrote: right is passed, wrong is not, and whatever it tries it neither does harm nor passes for right."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import platform
import struct
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from mlx_distill.evaluation.sandbox import Case, Limits, Verdict, judge, landlock, plain, syscalls, works

QUICK = Limits(seconds=20, cpu_seconds=1, memory=1 << 28)
TESTS = """
def check(candidate):
    assert candidate(1, 2) == 3, "one and two"
    assert candidate(b=5, a=2) == 7
"""
LINUX = sys.platform == "linux" and platform.machine() in syscalls.ARCHITECTURES
LANDLOCK = LINUX and ctypes.CDLL(None).syscall(landlock.CREATE_RULESET, None, 0, 1) > 0
"""Asked for its version, as the manual has it."""
linux = pytest.mark.skipif(not LINUX, reason="the kernel's filter is for Linux on x86-64 and ARM64")


def run(code: str, *, tests: str = TESTS, setting: str = "", limits: Limits = QUICK) -> Verdict:
    return judge(Case(textwrap.dedent(code), "add", setting, tests), limits)


def passing(what: str) -> str:
    """A right program that tries something first, and goes on whatever comes of it."""
    tried = textwrap.indent(textwrap.dedent(what).strip(), "    ")
    return f"try:\n{tried}\nexcept BaseException:\n    pass\ndef add(a, b):\n    return a + b\n"


def test_a_right_program_passes_and_a_wrong_one_does_not() -> None:
    assert run("def add(a, b):\n    return a + b").passed
    wrong = run("def add(a, b):\n    return a - b")
    assert not wrong.passed and "one and two" in wrong.reason


def test_it_says_what_held_the_program() -> None:
    on_linux = "kernel" if LANDLOCK else "calls"
    assert works() == Verdict(True, "", on_linux if LINUX else "sandbox" if sys.platform == "darwin" else "python")


@linux
@pytest.mark.parametrize(("refused", "guard"), [("landlock", "calls"), ("seccomp", "python")])
def test_it_says_so_where_the_kernel_lacks_a_guard(refused: str, guard: str) -> None:
    """An older kernel, as it looks from within: a filter that both processes inherit says that there is no such thing."""
    assert lacking(refused, Case("def add(a, b):\n    return a + b", "add", "", TESTS)) == Verdict(True, "", guard)


LACKING = """
import json, sys
from mlx_distill.evaluation.sandbox import Case, judge, landlock, syscalls
PRCTL, NO_SUCH_CALL = {"x86_64": 157, "aarch64": 167}, 0x00050000 | 38
number, first = {"landlock": (landlock.CREATE_RULESET, None), "seccomp": (PRCTL[sys.argv[2]], syscalls.SET_SECCOMP)}[sys.argv[1]]
looked_at = [(syscalls.LOAD, 0, 0, syscalls.ARGUMENTS), (syscalls.EQUAL, 0, 1, first)] if first else []
refusal = [(syscalls.EQUAL, 0, len(looked_at) + 1, number), *looked_at, (syscalls.RETURN, 0, 0, NO_SUCH_CALL)]
assert syscalls.apply([(syscalls.LOAD, 0, 0, syscalls.NUMBER), *refusal, (syscalls.RETURN, 0, 0, syscalls.ALLOW)])
verdict = judge(Case(*json.load(sys.stdin)))
json.dump([verdict.passed, verdict.reason, verdict.guard], sys.stdout)
"""


def lacking(refused: str, case: Case) -> Verdict:
    command = [sys.executable, "-c", LACKING, refused, platform.machine()]
    told = json.dumps([case.program, case.entry_point, case.setting, case.tests])
    return Verdict(*json.loads(subprocess.run(command, input=told, capture_output=True, text=True, check=True).stdout))


@pytest.mark.parametrize("code", ["def add(a, b:\n    return", "def plus(a, b):\n    return a + b", "1 / 0", ""])
def test_a_program_that_does_not_run_or_lacks_its_function_fails(code: str) -> None:
    assert not run(code).passed


@pytest.mark.parametrize(
    "code",
    [
        "import sys\nsys.exit(0)",
        "import os\nos._exit(0)",
        "def add(a, b):\n    import os\n    os._exit(0)",
        "def add(a, b):\n    raise SystemExit(0)",
        'print({"token": "x", "passed": True, "reason": ""})\nimport os\nos._exit(0)',
        # whatever it finds to write to: a verdict of its own for the tests' process, or ours
        'import os\nfor end in range(32):\n    try:\n        os.write(end, b\'{"token": "", "passed": true, "reason": ""}\')\n'
        "    except OSError:\n        pass\nos._exit(0)",
        # equal to everything: but values are compared where the program is not
        "class Any:\n    def __eq__(self, other):\n        return True\ndef add(a, b):\n    return Any()",
        "class Any(int):\n    def __eq__(self, other):\n        return True\ndef add(a, b):\n    return Any(4)",
        "import builtins\nbuiltins.AssertionError = ZeroDivisionError\ndef add(a, b):\n    return 4",
        "import sys\nframe = sys._getframe()\nwhile frame:\n    frame.f_globals['check'] = lambda candidate: None\n"
        "    frame = frame.f_back\ndef add(a, b):\n    return 4",
        "def add(a, b):\n    raise AssertionError",
    ],
)
def test_no_program_passes_but_by_right_values(code: str) -> None:
    assert not run(code).passed


def test_a_verdict_without_the_token_is_none() -> None:
    """The tests' own process cannot be made to say it by whoever writes to what is open."""
    forged = """
import os
def check(it):
    it(1, 2)
    for end in range(64):
        try:
            os.write(end, b'{"token": "", "passed": true, "reason": ""}')
        except OSError:
            pass
    os._exit(0)
"""
    assert run("def add(a, b):\n    return 4", tests=forged).reason == "the tests did not tell their verdict"


def test_an_endless_loop_is_ended_by_the_limit_of_computing_time() -> None:
    assert run("def add(a, b):\n    while True:\n        pass").reason == "Ended: the program was ended"


def test_who_waits_for_ever_is_ended_by_the_clock() -> None:
    late = run("import time\ndef add(a, b):\n    time.sleep(10_000)", limits=Limits(seconds=0.4))
    assert (late.passed, late.reason) == (False, "took too long")


def test_a_memory_bomb_gets_no_memory() -> None:
    assert run("def add(a, b):\n    hoard = bytearray(1 << 32)\n    return a + b").reason == "MemoryError: "
    assert not run("def add(a, b):\n    hoard = [0]\n    while True:\n        hoard += hoard").passed


def test_a_huge_value_is_not_taken() -> None:
    assert "at most" in run("def add(a, b):\n    return 'x' * (1 << 23)").reason


def test_a_value_that_only_claims_to_be_huge_is_not_waited_for() -> None:
    claim = "import os\ndef add(a, b):\n    for end in range(3, 32):\n        try:\n            os.write(end, b'99999999999\\n')\n"
    assert "at most" in run(claim + "        except OSError:\n            pass\n    while True:\n        pass").reason


def test_endless_recursion_and_values_that_hold_themselves_fail() -> None:
    assert "RecursionError" in run("def add(a, b):\n    return add(a, b)").reason
    assert "RecursionError" in run("def add(a, b):\n    own = []\n    own.append(own)\n    return own").reason


def test_what_is_printed_goes_nowhere_however_much() -> None:
    assert run(passing("for _ in range(300):\n    print('x' * 1_000_000)"), limits=Limits(cpu_seconds=5)).passed
    assert not run("import sys\nwhile True:\n    sys.stderr.write('x' * 1_000_000)").passed


def test_no_secret_of_ours_is_in_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLANTED_SECRET", "s3cr3t")
    looking = "import os\ndef add(a, b):\n    return os.environ.get('PLANTED_SECRET', 'none')"
    assert run(looking, tests="def check(it):\n    assert it(1, 2) == 'none'\n").passed
    reading = "def add(a, b):\n    import os\n    return open(f'/proc/{os.getppid()}/environ').read()"
    assert run(reading).reason.startswith("PermissionError: no file may be read here")


def test_it_reads_no_file_of_ours(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("secret")
    (tmp_path / "link").symlink_to(tmp_path / "key")
    for name in ("key", "link"):
        assert "may be read" in run(f"def add(a, b):\n    return open({str(tmp_path / name)!r}).read()").reason


WRITING = [
    "open({path!r}, 'w').write('x')",
    "open({path!r}, 'a').write('x')",
    "import os\nos.open({path!r}, os.O_RDONLY | os.O_CREAT)",
    "import os\nos.open({path!r}, os.O_RDONLY | os.O_TRUNC)",
    "import os\nos.remove({path!r})",
    "import os\nos.rename({path!r}, {path!r} + '2')",
    "import os\nos.truncate({path!r}, 0)",
    "import os\nos.chmod({path!r}, 0)",
    "import os\nos.mkdir({path!r} + '2')",
    "import os\nos.symlink({path!r}, {path!r} + '2')",
    "import shutil, os\nshutil.rmtree(os.path.dirname({path!r}))",
    "import pathlib\npathlib.Path({path!r}).unlink()",
    "open('here', 'w').write('x')",
]
UNHOOKED = """
import sys, gc
for module in list(sys.modules.values()):
    if getattr(module, '__name__', '').endswith('sandbox.guards'):
        module.__dict__['_refuse'] = lambda *_: None
"""
"""The interpreter's hook disarmed, as a program that means harm would do it: then the kernel alone holds it."""


@pytest.mark.parametrize("armed", [True, pytest.param(False, marks=linux)], ids=["hooked", "by the kernel alone"])
@pytest.mark.parametrize("trying", WRITING)
def test_no_file_is_made_changed_or_removed(tmp_path: Path, trying: str, armed: bool) -> None:
    folder = tmp_path / "ours"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    before = (folder / "kept").stat()
    assert run(passing(("" if armed else UNHOOKED) + trying.format(path=str(folder / "kept")))).passed
    assert [path.name for path in folder.iterdir()] == ["kept"] and (folder / "kept").read_text() == "kept"
    assert (folder / "kept").stat().st_mode == before.st_mode


@pytest.mark.parametrize("hook", ["", pytest.param(UNHOOKED, marks=linux)], ids=["hooked", "by the kernel alone"])
@pytest.mark.parametrize(
    "trying",
    [
        "import socket\nsocket.socket()",
        "import socket\nsocket.create_connection(('127.0.0.1', {port}), 1)",
        "import socket\nsocket.socketpair()",
        "import os\nos.fork()",
        "import subprocess\nsubprocess.run(['true'])",
        "import os\nassert os.system('true') == 0",
        "import os\nos.execv('/bin/true', ['true'])",
        "import os, signal\nos.kill(os.getppid(), signal.SIGTERM)",
        "import os\nos.setsid()",
        "import multiprocessing\nmultiprocessing.Process(target=print).start()",
        "import os\nos.posix_spawn('/bin/true', ['true'], {{}})",
        "import ctypes\nassert ctypes.CDLL(None).fork() >= 0",
    ],
)
def test_there_is_no_network_and_no_other_process(trying: str, hook: str) -> None:
    """The program says what it reached: had it, its function would be right."""
    if "setsid" in trying and not LINUX:
        pytest.skip("harmless where it is possible: both processes are ended by their own numbers too")
    tried = textwrap.indent(trying.format(port=9), "    ")
    code = f"{hook}\nreached = True\ntry:\n{tried}\nexcept BaseException:\n    reached = False\ndef add(a, b):\n    return reached\n"
    assert run(code, tests="def check(it):\n    assert it(1, 2) is False\n").passed


READING = [
    "open('/etc/passwd').read()",
    "open('/proc/self/root/etc/passwd').read()",
    "open(f'/proc/{{os.getppid()}}/environ', 'rb').read()",
    "open(f'/proc/{{os.getppid()}}/mem', 'rb')",
    "open(f'/proc/{{os.getppid()}}/cmdline').read()",
    "open('/proc/self/mem', 'rb')",
    "os.open({path!r}, os.O_RDONLY)",
    "os.open({path!r} + '.link', os.O_RDONLY)",
    "os.listdir(os.path.dirname({path!r}))",
    "os.readlink(f'/proc/{{os.getppid()}}/cwd')",
]


@pytest.mark.skipif(not LANDLOCK, reason="the kernel has no Landlock")
@pytest.mark.parametrize("trying", READING)
def test_nothing_is_read_though_the_hook_was_disarmed(tmp_path: Path, trying: str) -> None:
    """Neither files nor what /proc tells of the process that judges, to a superuser either."""
    (tmp_path / "key").write_text("secret")
    (tmp_path / "key.link").symlink_to(tmp_path / "key")
    reading = trying.format(path=str(tmp_path / "key"))
    code = f"{UNHOOKED}\nimport os\nsaid = 'read'\ntry:\n    {reading}\nexcept OSError as error:\n    said = str(error)\n"
    code += "def add(a, b):\n    return said"
    assert run(code, tests="def check(it):\n    assert '[Errno 13]' in it(1, 2), it(1, 2)\n") == Verdict(True, "", "kernel")


@linux
def test_without_landlock_neither_process_looks_into_the_other_or_has_a_superusers_powers() -> None:
    code = """
import os
def of(process, name):
    return [line.split()[1] for line in open(f"/proc/{process}/status") if line.startswith(name)][0]
def add(a, b):
    other = next(pid for pid in os.listdir("/proc") if pid.isdigit() and int(pid) != os.getpid() and of(pid, "PPid") == str(os.getppid()))
    try:
        return open(f"/proc/{other}/mem", "rb")
    except PermissionError:
        return int(of("self", "CapPrm"), 16)
"""
    reading_of_files = 4
    tests = f"def check(it):\n    assert it(1, 2) in (0, {reading_of_files})\n"
    assert lacking("landlock", Case(UNHOOKED + code, "add", "", tests)) == Verdict(True, "", "calls")


def test_no_other_process_is_signalled_through_a_pipe() -> None:
    """By fcntl the kernel may be asked to send a process any signal once there is something to read: here, the tests' next call."""
    attack = """
import fcntl, os
for end in range(3, 32):
    for command, value in ((10, 9), (8, {victim}), (4, 0o20000)):
        try:
            fcntl.fcntl(end, command, value)
        except OSError:
            pass
"""
    with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as victim:
        hook = UNHOOKED if LINUX else ""
        run(hook + passing(attack.format(victim=victim.pid)))
    assert victim.returncode == 0


def test_a_fork_bomb_makes_no_process() -> None:
    before = threading.active_count()
    bomb = "import os\ndef add(a, b):\n    for _ in range(100):\n        os.fork()\n    return a + b"
    assert "PermissionError" in run(bomb).reason and threading.active_count() == before


def test_nothing_is_left_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    before = len(list(Path("/proc/self/fd").iterdir())) if LINUX else 0
    for code in ("def add(a, b):\n    return a + b", "import os\nos._exit(1)", "while True: pass"):
        run(code)
    run("import time\ntime.sleep(10_000)", limits=Limits(seconds=0.3))
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)
    if LINUX:
        assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_tests_may_use_what_stands_before_them_and_call_the_function_by_its_name() -> None:
    tests = "def check(candidate):\n    assert candidate(1, 2) == add(2, 1) == twice(1) + 1\n"
    setting = "def twice(x):\n    return 2 * x\ndef add(a, b):\n    '''to be written'''"
    assert run("def add(a, b):\n    return a + b", setting=setting, tests=tests).passed


def test_what_stands_in_the_standard_library_may_be_imported() -> None:
    names = "re, math, decimal, fractions, statistics, datetime, random, hashlib, heapq, bisect, typing, string, itertools, functools, copy"
    assert run(f"import {names}\nfrom collections import Counter, deque\ndef add(a, b):\n    return math.floor(a + b)").passed


def test_modules_that_need_a_library_of_the_systems_may_be_imported() -> None:
    """Of those that this Python was built with."""
    for name in ("_hashlib", "zlib", "_bz2", "_lzma", "_sqlite3"):
        if importlib.util.find_spec(name) is not None:
            assert run(f"import {name}\ndef add(a, b):\n    return a + b") == run("def add(a, b):\n    return a + b")


def test_an_error_that_a_test_expects_comes_through() -> None:
    tests = "def check(it):\n    try:\n        it(1, 2)\n    except ValueError as error:\n        assert str(error) == 'no'\n"
    tests += "    else:\n        assert False\n"
    assert run("def add(a, b):\n    raise ValueError('no')", tests=tests).passed


VALUES = [
    None, True, 0, -(10**5000), 0.1, float("inf"), 1e-320, "", "a\0é\ud800", b"\xff", [], (), set(), {}, [1, (2, [3]), {4: {5}}],
    {(1, "a"): None}, {"int": "1"}, frozenset({1}), 2 + 3j, range(3, 10, 2),
]  # fmt: skip


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_plain_values_come_back_as_they_were(value: object) -> None:
    back = plain.decoded(json.loads(json.dumps(plain.encoded(value))))
    assert back == value and type(back) is type(value)


def test_what_can_be_gone_through_once_still_can() -> None:
    once = plain.decoded(plain.encoded(x * x for x in range(3)))
    assert once != [0, 1, 4] and list(once) == [0, 1, 4] and list(once) == []


def test_what_is_no_plain_value_is_not_sent() -> None:
    with pytest.raises(TypeError, match="no plain value"):
        plain.encoded(object())


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_the_filter_lets_through_what_is_listed_and_nothing_else(machine: str) -> None:
    """Run by hand, instruction by instruction, over every number that a system call may have."""
    name, own = syscalls.ARCHITECTURES[machine]
    filter_ = syscalls.program(machine)
    listed = {numbers[own] for numbers in syscalls.ALLOWED.values()} - {None}
    opens = {numbers[own]: numbers[2] for numbers in syscalls.OPENS.values() if numbers[own] is not None}
    commands = {numbers[own]: numbers[2:] for numbers in syscalls.COMMANDS.values()}
    for number in [*range(600), 0x40000000, 0x40000001, 0xFFFFFFFF]:
        expected = syscalls.ALLOW if number in listed | opens.keys() | commands.keys() else syscalls.REFUSE
        assert verdict(filter_, name, number, [0] * 6) == expected, number
        assert verdict(filter_, name ^ 1, number, [0] * 6) == syscalls.KILL
    for number, flags in opens.items():
        for writing in (os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_TRUNC, os.O_APPEND, os.O_RDWR | os.O_CLOEXEC):
            given = [0] * 6
            given[flags] = writing
            assert verdict(filter_, name, number, given) == syscalls.REFUSE
        given = [os.O_WRONLY] * 6
        given[flags] = os.O_CLOEXEC
        assert verdict(filter_, name, number, given) == syscalls.ALLOW
    for number, (argument, values) in commands.items():
        for value in range(2000):
            given = [0] * 6
            given[argument] = value | 1 << 32  # the kernel looks at the lower half of it alone
            assert verdict(filter_, name, number, given) == (syscalls.ALLOW if value in values else syscalls.REFUSE)


# x86-64's, ARM64's: asm/unistd_64.h and asm-generic/unistd.h, written down apart from the list
DANGEROUS = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240),
    "timer_create": (222, 107), "mq_notify": (244, 184), "pidfd_send_signal": (424, 424), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271),
    "process_madvise": (440, 440), "clone": (56, 220), "clone3": (435, 435), "execve": (59, 221), "execveat": (322, 281),
    "memfd_create": (319, 279), "ioctl": (16, 29), "prctl": (157, 167), "seccomp": (317, 277), "prlimit64": (302, 261), "bpf": (321, 280),
    "keyctl": (250, 219), "io_uring_setup": (425, 425), "userfaultfd": (323, 282), "perf_event_open": (298, 241),
    "open_by_handle_at": (304, 265), "openat2": (437, 437), "capset": (126, 91),
}  # fmt: skip


@pytest.mark.parametrize("machine", syscalls.ARCHITECTURES)
def test_the_filter_refuses_every_known_way_to_others(machine: str) -> None:
    name, own = syscalls.ARCHITECTURES[machine]
    filter_ = syscalls.program(machine)
    assert [call for call, numbers in DANGEROUS.items() if verdict(filter_, name, numbers[own], [0] * 6) != syscalls.REFUSE] == []


def test_the_filter_knows_no_command_by_which_others_are_reached() -> None:
    """Numbers of linux/fcntl.h and asm-generic/mman-common.h, written down apart from the list."""
    f_setfl, f_setown, f_setsig, f_setown_ex, f_setlease, f_notify = 4, 8, 10, 15, 1024, 1026
    assert not {f_setfl, f_setown, f_setsig, f_setown_ex, f_setlease, f_notify} & set(syscalls.COMMANDS["fcntl"][3])
    hwpoison, soft_offline = 100, 101
    assert not {hwpoison, soft_offline} & set(syscalls.COMMANDS["madvise"][3])


def verdict(filter_: list[syscalls.Instruction], architecture: int, number: int, arguments: list[int]) -> int:
    """What classic BPF says of a call: struct seccomp_data is number, architecture, instruction pointer, six arguments."""
    record = struct.pack("<IIQ6Q", number, architecture, 0, *arguments)
    at, word = 0, 0
    while True:
        code, holds, fails, operand = filter_[at]
        if code == syscalls.RETURN:
            return operand
        if code == syscalls.LOAD:
            (word,) = struct.unpack_from("<I", record, operand)
            at += 1
        else:
            true = word == operand if code == syscalls.EQUAL else bool(word & operand)
            at += 1 + (holds if true else fails)

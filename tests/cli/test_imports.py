import subprocess
import sys


def test_a_command_does_not_wait_for_what_only_serving_needs() -> None:
    """A quarter of what there is to import is the server and the faces: only `serve` and `doctor` have use for them."""
    program = "import sys; import quotas.cli; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    more = "print(*(name for name in sys.modules if name.startswith('quotas.')))"
    ran = subprocess.run([sys.executable, "-c", f"{program}; {more}"], capture_output=True, text=True, check=True)
    packages, ours = (set(line.split()) for line in ran.stdout.splitlines())
    assert not packages & {"uvicorn", "starlette", "httptools"}
    assert not ours & {"quotas.app", "quotas.serving", "quotas.web", "quotas.checks", "quotas.metrics", "quotas.doctor"}
    assert "quotas.operations" in ours, "nothing was imported"

"""The benchmark of Lorenz-96: both sides' formulas, what its record says, and what it refuses."""

import json
from pathlib import Path

import pytest
import torch

from scripts.benchmark import lorenz96
from scripts.benchmark.lorenz96 import jacobian, jacobian_of_one, states, velocity, velocity_of_one

FEW = ["--batch-size", "1", "2", "--num-exponents", "3", "--num-steps", "20", "--repeats", "1"]


def test_both_sides_have_the_same_formulas() -> None:
    z = states(2)
    torch.testing.assert_close(velocity(z)[1], torch.from_numpy(velocity_of_one(z[1].numpy())), rtol=0, atol=1e-13)
    torch.testing.assert_close(jacobian(z)[1], torch.from_numpy(jacobian_of_one(z[1].numpy())), rtol=0, atol=1e-13)
    derivative = torch.autograd.functional.jacobian(lambda x: velocity(x[None])[0], z[0])
    torch.testing.assert_close(jacobian(z)[0], derivative, rtol=0, atol=1e-13)


def test_record(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lorenz96.main([*FEW, "--json", str(tmp_path / "record.json")])
    record = json.loads((tmp_path / "record.json").read_text())
    assert [result["batch_size"] for result in record["results"]] == [1, 2]
    for result in record["results"]:
        medians = {name: times["median"] for name, times in result["seconds"].items()}
        assert result["over_numpy"] == medians["jacobian"] / medians["numpy"]
        assert result["largest_difference"] < 1e-10
    assert "jacobian/numpy" in capsys.readouterr().out


def test_nothing_is_timed_where_the_ways_disagree(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lorenz96, "velocity_of_one", lambda x: velocity_of_one(x) + 0.1)
    with pytest.raises(SystemExit) as caught:
        lorenz96.main(FEW)
    assert caught.value.code == 2 and "growth rates differ by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--num-exponents", "41"], "40 components"),
        (["--num-steps", "7"], "no multiple of --qr-interval 5"),
        (["--batch-size", "0"], "at least 1"),
    ],
)
def test_refusals(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        lorenz96.main(options)
    assert caught.value.code == 2 and says in capsys.readouterr().err

"""Fused training against the loop a user would write, and against the floor of the machine.

    python -m benchmarks.fused                                    # SUPPORT2 on CPU cores, subsets of three tasks
    python -m benchmarks.fused --device cuda --out gpu.json       # the shape of HAIM-MIMIC-MM: 44 tasks, all pairs
    python -m benchmarks.fused --device cuda --work support2      # SUPPORT2 on a GPU: 6 tasks, all pairs
    python -m benchmarks.fused --work haim --quick                # a small cohort of that shape on CPU cores

`--quick` is noisier. Prints a short table, and writes JSON after every section, so that a run that is cut keeps its
figures. Ends with status 1 if a section of fused training failed. Needs torch, numpy, pandas, pyarrow, scikit-learn,
scipy and rich only.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.heatmap import Heatmap, Work
from benchmarks.member_step import DEMO, MemberStep
from benchmarks.sections import Sections, machine
from model.networks.settings import M3HSettings
from model.sources import support2, synthetic


def haim(device: str, quick: bool) -> Work:
    """The shape of HAIM-MIMIC-MM; quickly, fewer tasks on a GPU and a small cohort on a CPU."""
    if not quick:
        return Work("haim-like", synthetic.haim_like()[0], M3HSettings(replicates=0))
    if device == "cuda":
        cohort, _ = synthetic.haim_like()
        some = [name for name in sorted(cohort.tasks) if not name.startswith("diagnosis")]
        some += [name for name in sorted(cohort.tasks) if name.startswith("diagnosis")][:9]
        return Work(
            "haim-like, 12 of its tasks", cohort.for_tasks(sorted(some)), M3HSettings(replicates=0, epochs=3), 64, 8
        )
    cohort, _ = synthetic.haim_like(900, 400, widths=(6, 40, 60, 60), n_binary=4, n_clusters=3)
    return Work("haim-like, small", cohort, M3HSettings(replicates=0, epochs=2, width=32), 6, 6)


def on_support2(quick: bool) -> Work:
    return Work("SUPPORT2", support2.load().for_tasks(DEMO), M3HSettings(replicates=0, epochs=3 if quick else 15))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmark; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=["support2", "haim"], help="default: support2 on a CPU, haim on a GPU")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--quick", action="store_true", help="less work, fewer rounds and epochs; noisier")
    parser.add_argument("--minutes", type=float, default=8.0, help="sections that would start later are skipped")
    parser.add_argument("--out", type=Path, help="write the figures as JSON to this file")
    options = parser.parse_args(arguments)
    on_gpu = options.device == "cuda"
    work = options.work or ("haim" if on_gpu else "support2")
    if on_gpu and not torch.cuda.is_available():
        parser.error("--device cuda was asked for, but torch sees no GPU here; use --device cpu")
    if work == "haim" and not on_gpu and not options.quick:
        parser.error("--work haim takes hours on a CPU; add --quick for a small cohort of that shape")
    torch.set_float32_matmul_precision("highest")
    device = torch.device(options.device)
    about = {**machine(device), "work": work, "quick": options.quick, "minutes": options.minutes}
    sections = Sections(about, options.minutes, options.out)
    if work == "support2" and not on_gpu:
        MemberStep(sections, quick=options.quick).run()
    else:
        chosen = haim(options.device, options.quick) if work == "haim" else on_support2(options.quick)
        Heatmap(chosen, device, sections).run()
    sections.show()
    return int(sections.failed)


if __name__ == "__main__":
    raise SystemExit(main())

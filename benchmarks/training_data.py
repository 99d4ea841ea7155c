"""How many training examples a second this machine makes, from files to padded arrays.

    python benchmarks/training_data.py --json training_data.json
    python benchmarks/training_data.py --index index.jsonl --workers 8

Without an index, chains of random letters with alignments of 5,000 rows are written and read. Processor seconds an
example are those of one process with all its threads; examples a second are what arrives from `--workers` processes.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "training_data")]

import tempfile  # noqa: E402
import time  # noqa: E402

import cif  # noqa: E402
import measure  # noqa: E402
import numpy as np  # noqa: E402

from fastfold_jax.config.presets import preset  # noqa: E402
from fastfold_jax.data.training.augment import Augmentation  # noqa: E402
from fastfold_jax.training.dataset import DataConfig, Dataset  # noqa: E402
from fastfold_jax.training.loader import PREFETCH, BatchIterator  # noqa: E402

COLUMNS = ["crop", "clusters", "extra_rows", "passes", "cpu_seconds", "per_second"]
SIZES = ((256, 128, 1024), (384, 512, 5120))
QUICK_SIZES = ((64, 16, 32),)


def synthetic(directory: Path, *, chains: int, length: int, rows: int) -> Path:
    """An index of chains of random letters."""
    rng = np.random.default_rng(0)
    letters = {f"1{number:03}": {"A": cif.random_letters(rng, length)} for number in range(chains)}
    return cif.write_dataset(directory, letters, rows=rows)


def rate(index: Path, size: tuple[int, int, int], workers: int, examples: int) -> dict:
    """Times the examples of one size, in this process and from others."""
    crop, clusters, extra = size
    model = preset("model_1_ptm", num_msa=clusters + 4, num_extra_msa=extra)
    config = DataConfig(index=index, augmentation=Augmentation(crop_size=crop), workers=workers)
    data = Dataset(config, model, seed=0, batch_size=1)
    data.batch(0)
    taken = [measure.stopwatch(lambda step=step: data.batch(step))[1] for step in range(examples)]
    with BatchIterator(data) as batches:
        for _ in range(workers * (PREFETCH + 1)):  # what is ready beforehand
            next(batches)
        start = time.perf_counter()
        for _ in range(examples):
            next(batches)
        seconds = time.perf_counter() - start
    return {
        "crop": crop,
        "clusters": clusters,
        "extra_rows": extra,
        "passes": float(np.mean([data.num_recycles(step) + 1 for step in range(examples)])),
        "cpu_seconds": float(np.mean(taken)),
        "per_second": examples / seconds,
    }


def main() -> None:
    """Parses flags, makes examples, prints a line for each size."""
    parser = measure.arguments(__doc__.splitlines()[0])
    parser.add_argument("--index", type=Path, help="a real one, made by python -m fastfold_jax.training.index")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--examples", type=int, default=32)
    flags = parser.parse_args()
    sizes, examples = (QUICK_SIZES, 4) if flags.quick else (SIZES, flags.examples)
    report = {"machine": measure.machine(), "workers": flags.workers, "sizes": []}
    with tempfile.TemporaryDirectory() as directory:
        shape = {"chains": 2, "length": 80, "rows": 50} if flags.quick else {"chains": 8, "length": 300, "rows": 5000}
        index = flags.index or synthetic(Path(directory), **shape)
        for size in sizes:
            report["sizes"].append(rate(index, size, flags.workers, examples))
    print(measure.table(report["sizes"], COLUMNS))
    measure.finish(report, flags.json)


if __name__ == "__main__":
    main()

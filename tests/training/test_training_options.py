"""The options of `train.py`: what the command line says reaches the data, and what makes no sense is refused."""

import dataclasses
from pathlib import Path

import pytest
import tyro

from fastfold_jax.config.execution import Execution
from fastfold_jax.data.training.selection import Filters
from fastfold_jax.data.training.templates import TemplateConfig
from fastfold_jax.errors import UserError
from fastfold_jax.training.dataset import DataConfig
from fastfold_jax.training.options import (
    ChainOptions,
    DistillationOptions,
    MachineOptions,
    StageOptions,
    TemplateOptions,
    TrainConfig,
    ValidationOptions,
)
from fastfold_jax.training.processes import shared_options
from parallel.hosts import Hosts


def parsed(*arguments) -> TrainConfig:
    return tyro.cli(TrainConfig, args=["--index", "index.jsonl", "--out", "run", *map(str, arguments)])


def made(chains=None, **options) -> TrainConfig:
    return TrainConfig(out=Path("run"), chains=chains or ChainOptions(index=Path("index.jsonl")), **options)


def test_defaults_are_those_of_the_data():
    data = parsed().training_data()
    expected = DataConfig(index=Path("index.jsonl"))
    assert dataclasses.replace(data, augmentation=expected.augmentation) == expected
    assert data.augmentation.crop_size == 256
    assert parsed().validation_data() is None


def test_every_option_reaches_the_data(tmp_path):
    library = tmp_path / "mmcif"
    library.mkdir()
    config = parsed(
        *("--clusters", "clusters.txt", "--need-cluster", "--max-resolution", 5, "--released-after", "2001-02-03"),
        *("--released-before", "2018-04-30", "--min-length", 20, "--max-length", 900, "--max-residue-share", 0.5),
        *("--deleted-blocks", 2, "--max-chains", 8, "--max-copies", 6, "--loader-workers", 3),
        *("--distillation-index", "predicted.jsonl", "--distillation-fraction", 0.5),
        *("--distillation-min-confidence", 70, "--distillation-min-length", 200, "--distillation-max-length", 1024),
        *("--template-mmcif", library, "--max-template-date", "2018-04-29", "--template-pool", 10),
        *("--obsolete-pdbs", "obsolete.dat", "--crop-size", 64),
        *("--validation-index", "recent.jsonl", "--validation-released-after", "2018-05-01", "--validation-limit", 9),
    )
    templates = TemplateConfig(structures=library, obsolete=Path("obsolete.dat"), latest="2018-04-29", pool=10)
    data = config.training_data()
    assert data.filters == Filters(
        max_resolution=5.0,
        released_before="2018-04-30",
        released_after="2001-02-03",
        min_length=20,
        max_length=900,
        max_residue_share=0.5,
        need_cluster=True,
    )
    assert data.distillation_filters == Filters(min_length=200, max_length=1024, max_residue_share=0.5)
    assert (data.distillation_index, data.distillation_fraction) == (Path("predicted.jsonl"), 0.5)
    assert (data.clusters, data.min_confidence, data.templates) == (Path("clusters.txt"), 70.0, templates)
    assert (data.augmentation.crop_size, data.augmentation.deleted_blocks) == (64, 2)
    assert (data.max_chains, data.max_copies, data.workers) == (8, 6, 3)
    validation = config.validation_data()
    assert validation.filters == Filters(released_after="2018-05-01")
    assert (validation.limit, validation.crop_size, validation.templates) == (9, 64, templates)
    assert (validation.max_chains, validation.max_copies) == (8, 6)


def test_batches_of_another_size_keep_the_samples():
    """Of the whole run, of warm-up and before the decay; `--steps` has the last word."""
    preset, chosen = parsed().chosen(), parsed("--batch-size", 16).chosen()
    samples = [
        (stage.steps * stage.batch_size, stage.optimizer.warmup_steps * stage.batch_size, stage.optimizer.decay_after)
        for stage in (preset, chosen)
    ]
    assert samples == [(10_000_000, 128_000, 50_000), (10_000_000, 128_000, 400_000)]
    assert parsed("--batch-size", 16, "--steps", 7).chosen().steps == 7
    assert parsed("--batch-size", 128).chosen() == preset
    other = parsed("--preset", "fine-tuning", "--batch-size", 64).chosen()
    assert (other.steps, other.optimizer.warmup_steps, other.optimizer.decay_after) == (23_438, 0, None)


def test_departures_from_the_preset_reach_the_stage():
    """Each changes what it is called after and nothing else."""
    preset = parsed("--preset", "ptm").chosen()
    for arguments, field, value in (
        (("--learning-rate", 2e-4), "optimizer", dataclasses.replace(preset.optimizer, learning_rate=2e-4)),
        (("--max-msa", 64, 96), "model", dataclasses.replace(preset.model, num_msa=64, num_extra_msa=96)),
        (("--crop-size", 72), "crop_size", 72),
        (("--steps", 9), "steps", 9),
    ):
        chosen = parsed("--preset", "ptm", *arguments).chosen()
        assert chosen == dataclasses.replace(preset, **{field: value}) != preset, arguments


def test_what_is_kept_for_the_backward_pass_is_chosen():
    """Each block's activations are computed again, unless they are to be kept on the device or in the host's memory."""
    assert parsed().machine.execution() == Execution(remat=True)
    assert parsed("--no-remat").machine.execution() == Execution(remat=False)
    assert parsed("--offload").machine.execution() == Execution(remat="offload")


def test_precision_kernels_and_memory_budget_reach_the_machine():
    machine = parsed("--precision", "float32", "--kernels", "xla", "--memory-budget", 2).machine
    assert machine.execution() == Execution(precision="float32", kernels="xla", remat=True)
    assert machine.budget() == 2 * 2**30
    assert parsed().machine.budget() is None and parsed("--memory-budget", "auto").machine.budget() == "device"


def test_chains_without_alignments_are_allowed_in_all_sets():
    config = parsed("--allow-no-alignment", "--validation-index", "recent.jsonl")
    data = config.training_data()
    assert not data.filters.need_alignment and not data.distillation_filters.need_alignment
    assert not config.validation_data().filters.need_alignment


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ChainOptions(index=Path("i"), max_chains=0), "--max-chains 0: accepted are numbers from 1"),
        (lambda: ChainOptions(index=Path("i"), loader_workers=-1), "--loader-workers -1"),
        (lambda: DistillationOptions(distillation_min_confidence=101), "--distillation-min-confidence 101"),
        (lambda: TemplateOptions(max_template_date="2018-04-30"), "--max-template-date: needs --template-mmcif"),
        (lambda: TemplateOptions(obsolete_pdbs=Path("o")), "--obsolete-pdbs: needs --template-mmcif"),
        (lambda: TemplateOptions(template_pool=0), "--template-pool 0"),
        (lambda: TemplateOptions(template_pool=9), "--template-pool: needs --template-mmcif"),
        (
            lambda: DistillationOptions(distillation_fraction=0.5),
            "--distillation-fraction: needs --distillation-index, the index of predicted structures",
        ),
        (lambda: DistillationOptions(distillation_min_confidence=70), "--distillation-min-confidence: needs"),
        (lambda: ValidationOptions(validation_limit=5), "--validation-limit: needs --validation-index"),
        (lambda: ValidationOptions(validation_released_after="nonsense"), "--validation-released-after: needs"),
        (lambda: made(seed=-1), "--seed -1: accepted are numbers from 0 to 4294967295"),
        (lambda: made(seed=2**32), "--seed 4294967296: accepted are numbers from 0 to 4294967295"),
        (lambda: made(stage=StageOptions(max_msa=(4, 96))), "--max-msa 4 96: model_1: num_msa=4 leaves no cluster"),
        (lambda: MachineOptions(no_remat=True, offload=True), "--offload in the host's memory: give one"),
        (lambda: made(ChainOptions(index=Path("i"), released_before="2018")), "released_before 2018: accepted"),
        (lambda: made(templates=TemplateOptions(template_mmcif=Path("nowhere"))), "nowhere: no such directory"),
    ],
)
def test_what_makes_no_sense_is_refused(make, said):
    with pytest.raises(UserError) as caught:
        make()
    assert said in str(caught.value)


def test_a_network_without_templates_is_given_none(tmp_path):
    with pytest.raises(UserError, match="--template-mmcif: the network demo takes no templates"):
        made(templates=TemplateOptions(template_mmcif=tmp_path), preset="demo")


def test_who_takes_part_is_told():
    options = ("--coordinator", "a:1", "--num-processes", 2, "--process-id", 1, "--local-device-ids", 0, 3)
    hosts = parsed(*options).machine.hosts()
    assert hosts == Hosts(coordinator="a:1", num_processes=2, process_id=1, local_device_ids=(0, 3))
    assert parsed().machine.hosts() == Hosts()


def test_what_processes_must_have_in_common():
    """Every option but this process's own; of places only whether they are given, since hosts mount them elsewhere."""
    config = parsed("--clusters", "a/clusters.txt", "--batch-size", 64)
    shared = shared_options(config)
    assert shared["--batch-size"] == 64 and shared["--clusters"] == "given" and shared["--init"] is None
    elsewhere = parsed("--clusters", "b/clusters.txt", "--batch-size", 64, "--verbose")
    of_another = dataclasses.replace(
        elsewhere, machine=MachineOptions(coordinator="a:1", num_processes=2, process_id=1, local_device_ids=(0, 3))
    )
    assert shared_options(of_another) == shared
    flags = sum(len(dataclasses.fields(group)) for group in vars(config).values() if dataclasses.is_dataclass(group))
    alone = sum(not dataclasses.is_dataclass(value) for value in vars(config).values())
    own = ("verbose", "coordinator", "num_processes", "process_id", "local_device_ids")
    assert len(shared) == flags + alone - len(own)

"""Real sequences with relatives in the sample databases, and searches with HMMER's own iteration to compare with."""

from pathlib import Path

import pytest

from fastfold_jax.data.fasta import Record, parse_fasta
from fastfold_jax.data.job_chains import Job, chains_of

TRANSPORTER = "tr|A0A1E3ZHP6|A0A1E3ZHP6_9BORD"
REGULATOR = "tr|A0A7W1Q9P6|A0A7W1Q9P6_9ACTN"


@pytest.fixture(scope="session")
def databases(shared_data: Path) -> Path:
    return shared_data / "mini_databases"


@pytest.fixture(scope="session")
def proteins(databases: Path) -> dict[str, Record]:
    (file,) = databases.glob("uniprot_all*")
    return {record.description.split()[0]: record for record in parse_fasta(file.read_bytes(), file=str(file))}


def job_of(*records: Record) -> Job:
    return Job(name="test", chains=chains_of(records))

"""Options of AlphaFold and ColabFold, and what they are here: docs/migration.md in short, for messages."""

_ALPHAFOLD = {
    "fasta-paths": "INPUT",
    "output-dir": "--out",
    "data-dir": "--params DIR/params",
    "model-preset": "--model",
    "num-multimer-predictions-per-model": "--num-seeds",
    "random-seed": "--seed",
    "template-mmcif-dir": "--template-mmcif",
    "pdb-seqres-database-path": "--template-sequences",
    "pdb70-database-path": "--template-hits",
    "obsolete-pdbs-path": "--obsolete-pdbs",
    "use-precomputed-msas": "the directory msas as INPUT",
    "models-to-relax": "--relax",
    "use-gpu-relax": "--relax-platform cuda",
    "benchmark": "timings.json, always written",
    "hhblits-binary-path": "--hhblits",
    "jackhmmer-binary-path": "",
    "hmmsearch-binary-path": "",
    "db-preset": "--databases",
    "uniref90-database-path": "--databases",
    "mgnify-database-path": "--databases",
    "bfd-database-path": "--databases",
    "uniref30-database-path": "--databases",
    "small-bfd-database-path": "--databases",
    "uniprot-database-path": "--databases",
}
_COLABFOLD = {
    "data": "--params",
    "model-type": "--model",
    "num-models": "--model all",
    "model-order": "--model",
    "msa-mode": "--msa",
    "host-url": "--msa-server",
    "pair-mode": "--msa-server-pairing",
    "pair-strategy": "--msa-server-pairing",
    "custom-template-path": "--custom-templates DIR",
    "pdb-hit-file": "--template-hits",
    "local-pdb-path": "--template-mmcif",
    "num-recycle": "--recycles",
    "recycle-early-stop-tolerance": "--recycle-tolerance",
    "max-seq": "--max-msa",
    "max-extra-seq": "--max-msa",
    "amber": "--relax best",
    "num-relax": "--relax best",
    "overwrite-existing-results": "--redo",
    "sort-queries-by": "",
    "rank": "",
    "zip": "",
    "save-all": "",
    "save-recycles": "",
    "use-dropout": "",
    "recompile-padding": "",
    "disable-unified-memory": "",
    "disable-cluster-profile": "",
}
ELSEWHERE = {
    option: f"{program}'s option, " + (f"here {here}" if here else "with none like it here")
    for program, options in (("AlphaFold", _ALPHAFOLD), ("ColabFold", _COLABFOLD))
    for option, here in options.items()
}
"""What to say of each, by its name without dashes in front."""

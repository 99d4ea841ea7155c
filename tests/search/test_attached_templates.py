"""Attaching templates: searched for, given as hits, the user's own, or the server's; and how a complex's are joined."""

import dataclasses
import logging
import shutil

import numpy as np
import pytest
from replay import Replay, quick, serving

from fastfold_jax.config.presets import preset
from fastfold_jax.constants import GAP
from fastfold_jax.data.assemble import assemble
from fastfold_jax.data.fasta import Record
from fastfold_jax.data.job import read_job
from fastfold_jax.data.job_chains import Job, chains_of
from fastfold_jax.data.sampling import sample
from fastfold_jax.data.structure import read_structure
from fastfold_jax.data.template_hits import read_hits
from fastfold_jax.errors import UserError
from fastfold_jax.search import template_search
from fastfold_jax.search.config import SearchOptions, TemplateOptions
from fastfold_jax.search.templates import attach

__all__ = ["quick"]

pytest.importorskip("pyhmmer")


@pytest.fixture
def search(tmp_path):
    return SearchOptions(search_cache=tmp_path / "cache", search_threads=2)


@pytest.fixture
def ferritin(shared_data):
    """A chain of 6s61 with every seventh residue replaced."""
    structure = read_structure(shared_data / "mini_databases" / "mmcif" / "6s61.cif")
    (letters,) = {polymer.letters for polymer in structure.polymers.values()}
    return "".join("A" if i % 7 == 3 else letter for i, letter in enumerate(letters))


def job_of(*sequences: str, names: str = "ABCD") -> Job:
    return Job(
        name="test", chains=chains_of([Record(description=names[i], sequence=s) for i, s in enumerate(sequences)])
    )


def accepted(caplog) -> list[str]:
    return [record.args[0] for record in caplog.records if record.msg.startswith("template %s accepted")]


def test_a_search_in_the_sequences_of_a_directory(shared_data, search, ferritin, caplog):
    options = TemplateOptions(template_mmcif=shared_data / "mini_databases" / "mmcif")
    with caplog.at_level(logging.INFO):
        done = attach(job_of(ferritin, ferritin), options, search)
    assert len(accepted(caplog)) == 1  # copies of 6s61's chains align to the same residues; the job's copies share
    assert accepted(caplog)[0].startswith("6s61_")
    assert done.chains[0].templates.aatype.shape == (1, len(ferritin))
    assert (done.chains[0].templates.atom_mask.any(axis=-1)).sum() > 150
    raw = assemble(done, preset("model_1_multimer_v3"))
    np.testing.assert_array_equal(
        raw.templates.positions[:, : len(ferritin)], raw.templates.positions[:, len(ferritin) :]
    )
    sampled = sample(raw, preset("model_1_multimer_v3"), seed=0, pass_index=0)
    np.testing.assert_array_equal(sampled.template_aatype[0], raw.templates.aatype[0])


def test_results_of_searches_are_kept(shared_data, search, ferritin, monkeypatch):
    options = TemplateOptions(template_mmcif=shared_data / "mini_databases" / "mmcif")
    first = attach(job_of(ferritin), options, search)

    def again(*_, **__):
        raise AssertionError("searched or read a second time")

    monkeypatch.setattr(template_search, "read_structure", again)
    monkeypatch.setattr(template_search, "search_profiles", again)
    second = attach(job_of(ferritin), options, search)
    np.testing.assert_array_equal(first.chains[0].templates.positions, second.chains[0].templates.positions)


def test_a_search_in_pdb_seqres(shared_data, search, ferritin, caplog):
    databases = shared_data / "mini_databases"
    found = []
    for options, where in (
        (
            TemplateOptions(template_mmcif=databases / "mmcif"),
            SearchOptions(databases=(databases,), no_search_cache=True),
        ),
        (
            TemplateOptions(template_mmcif=databases / "mmcif", template_sequences=next(databases.glob("pdb_seqres*"))),
            search,
        ),
    ):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            done = attach(job_of(ferritin), options, where)
        assert accepted(caplog) == ["6s61_M"]
        assert "rejected" in caplog.text and "has no " in caplog.text  # other ferritins of pdb_seqres
        found.append(done.chains[0].templates)
    np.testing.assert_array_equal(found[0].positions, found[1].positions)


def test_the_alignment_makes_the_profile(shared_data, search, caplog):
    job = read_job(shared_data / "msa" / "2q2k_A")
    options = TemplateOptions(template_mmcif=shared_data / "mmcif", max_templates=2)
    with caplog.at_level(logging.DEBUG):
        done = attach(job, options, search)
    assert "template 2q2k_A rejected: is a copy of the query, 70 of its 70 residues" in caplog.text
    assert len(done.chains[0].templates) == 2


def test_given_hits(shared_data, search, tmp_path, caplog):
    job = read_job(shared_data / "msa" / "cobra73")
    options = TemplateOptions(template_mmcif=shared_data / "mmcif", template_hits=(shared_data / "msa" / "cobra73",))
    done = attach(job, options, search)
    assert len(done.chains[0].templates) == 6
    # In a complex the names say which chain hits are for.
    query = job.chains[0].sequence
    hits = shared_data / "msa" / "cobra73" / "pdb70_hits.hhr"
    for name in ("chain2_pdb_hits.hhr", "B/pdb_hits.hhr"):
        folder = tmp_path / name.replace("/", "_")
        (folder / name).parent.mkdir(parents=True)
        shutil.copy(hits, folder / name)
        options = TemplateOptions(template_mmcif=shared_data / "mmcif", template_hits=(folder,))
        done = attach(job_of("MKVLAAGIVRK", query), options, search)
        assert [len(chain.templates) for chain in done.chains] == [0, 6]
        raw = assemble(done, preset("model_1_multimer_v3"))
        assert raw.templates.aatype.shape == (6, 11 + len(query)) and not raw.templates.atom_mask[:, :11].any()


def test_replaced_entries_lead_to_their_successors(shared_data, search, tmp_path):
    directory = shared_data / "msa" / "cobra73"
    job = read_job(directory)
    hits = read_hits(directory / "pdb70_hits.hhr", job.chains[0].sequence)
    structures, obsolete = tmp_path / "mmcif", tmp_path / "obsolete.dat"
    structures.mkdir()
    for path in (shared_data / "mmcif").iterdir():
        (structures / path.name.replace(hits[0].entry, "9new")).symlink_to(path)
    obsolete.write_text(f"OBSLTE    26-SEP-06 {hits[0].entry.upper()}     9NEW\n")
    options = TemplateOptions(template_mmcif=structures, template_hits=(directory,))
    without, found = (
        {source.name for source in attach(job, each, search).chains[0].templates.sources}
        for each in (options, dataclasses.replace(options, obsolete_pdbs=obsolete))
    )
    assert len(found) == 6 and found - without == {hits[0].entry}


def test_hits_beside_the_alignments_are_used_if_there_are_structures(
    shared_data, search, tmp_path, caplog, monkeypatch
):
    """What the options give comes first, then what lies with the input; only for other chains is there a search."""
    directory = shared_data / "msa" / "cobra73"
    job = read_job(directory)
    (hits,) = job.chains[0].hits
    assert hits.suffix == ".hhr"
    searched = []

    def search_chains(chains, *args, **kwargs):
        searched.extend(chain.id for chain in chains)
        return [[] for _ in chains]

    monkeypatch.setattr("fastfold_jax.search.templates.search_chains", search_chains)
    options = TemplateOptions(template_mmcif=shared_data / "mmcif")
    given = attach(job, dataclasses.replace(options, template_hits=(hits,)), search)
    done = attach(job, options, search)
    assert len(done.chains[0].templates) == 6 and not searched
    np.testing.assert_array_equal(done.chains[0].templates.positions, given.chains[0].templates.positions)
    both = dataclasses.replace(job, chains=(*job.chains, *job_of("MKVLAAGIVRK", names="X").chains))
    done = attach(both, options, search)
    assert [len(chain.templates) for chain in done.chains] == [6, 0] and searched == ["X"]
    shutil.copy(hits, tmp_path / "none.hhr")
    (tmp_path / "none.hhr").write_text("Query x\n\n No Hit Prob\n")
    done = attach(job, dataclasses.replace(options, template_hits=(tmp_path / "none.hhr",)), search)
    assert len(done.chains[0].templates) == 0 and searched == ["X"]
    with caplog.at_level(logging.INFO):
        assert attach(job, TemplateOptions(), search) is job
    assert "template hits beside the input are not used without --template-mmcif" in caplog.text


def test_chains_keep_the_templates_they_came_with(shared_data, search, ferritin):
    own = shared_data / "mini_databases" / "mmcif" / "6s61.cif"
    job = attach(job_of(ferritin, names="A"), TemplateOptions(custom_templates=(str(own),)), search)
    again = attach(job, TemplateOptions(template_mmcif=shared_data / "mmcif"), search)
    assert again.chains[0].templates is job.chains[0].templates
    more = attach(job, TemplateOptions(custom_templates=(str(own),)), search)
    assert len(more.chains[0].templates) == 2


def test_hits_of_no_chain(shared_data, search, tmp_path):
    hits = shared_data / "msa" / "cobra73" / "pdb70_hits.hhr"
    options = TemplateOptions(template_mmcif=shared_data / "mmcif", template_hits=(hits,))
    with pytest.raises(UserError, match=r"of which chain\? accepted are names that begin with chain1_"):
        attach(job_of("MKVLAAGIVRK", "GGSTTKW"), options, search)
    with pytest.raises(UserError, match="of another query"):
        attach(job_of("MKVLAAGIVRK"), options, search)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no hits"):
        attach(
            job_of("MKVLAAGIVRK"),
            TemplateOptions(template_mmcif=shared_data / "mmcif", template_hits=(tmp_path / "empty",)),
            search,
        )


def test_structures_of_the_user_come_first(shared_data, search, ferritin):
    own = shared_data / "mmcif" / "2q2k.cif"
    letters = next(iter(read_structure(own).polymers.values())).letters
    options = TemplateOptions(
        template_mmcif=shared_data / "mini_databases" / "mmcif",
        custom_templates=(f"B={own}:A", str(own)),
        max_template_date="1990-01-01",  # is no matter for them
    )
    done = attach(job_of(ferritin, letters), options, search)
    assert [len(chain.templates) for chain in done.chains] == [1, 2]
    assert (done.chains[1].templates.aatype != GAP).sum() == 2 * len(letters)
    sources = [[(source.name, source.chain) for source in chain.templates.sources] for chain in done.chains]
    assert sources == [[(str(own), "A")], [(str(own), "A")] * 2]
    assert done.chains[0].templates.then(done.chains[0].templates).sources == done.chains[0].templates.sources * 2
    assert done.chains[0].templates.sources[0].released == "2008-02-05"


def test_a_directory_of_the_user_s_structures(shared_data, tmp_path, search, ferritin, caplog):
    own = tmp_path / "own"
    own.mkdir()
    for name in ("2q2k.cif", "3zee.cif"):
        shutil.copy(shared_data / "mmcif" / name, own)
    shutil.copy(shared_data / "mini_databases" / "mmcif" / "6s61.cif", own / "last.cif")
    (own / "notes.txt").write_text("no structure")
    done = attach(job_of(ferritin, names="A"), TemplateOptions(custom_templates=(f"A={own}",)), search)
    one = attach(job_of(ferritin), TemplateOptions(custom_templates=(str(own / "last.cif"),)), search)
    assert len(done.chains[0].templates) == 3
    np.testing.assert_array_equal(done.chains[0].templates.aatype[0], one.chains[0].templates.aatype[0])  # most alike
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: holds no structure; accepted are"):
        attach(job_of(ferritin), TemplateOptions(custom_templates=(str(tmp_path / "empty"),)), search)


REFUSED = {
    "no such file": "{mmcif}/9xyz.cif",
    "nor is Q a chain of the job": "Q={mmcif}/2q2k.cif",
    "has no chain Q; its chains of amino acids are A, B": "{mmcif}/2q2k.cif:Q",
    "no atoms": "{tmp}/broken.cif",
}


@pytest.mark.parametrize("message", REFUSED)
def test_structures_that_cannot_be_used(shared_data, tmp_path, search, message):
    (tmp_path / "broken.cif").write_text("data_x\n_a.b c\n")
    given = REFUSED[message].format(mmcif=shared_data / "mmcif", tmp=tmp_path)
    with pytest.raises(UserError, match="--custom-templates ") as raised:
        attach(job_of("MKVLAAGIVRK"), TemplateOptions(custom_templates=(given,)), search)
    assert message in str(raised.value)


def test_nothing_asked_for(search):
    job = job_of("MKVLAAGIVRK")
    assert attach(job, TemplateOptions(), search) is job
    features = Job(name="x", chains=(), features={})
    assert attach(features, TemplateOptions(custom_templates=("x",)), search) is features


def test_directories_that_do_not_serve(search, tmp_path):
    with pytest.raises(UserError, match="no such directory"):
        attach(job_of("MKVLAAGIVRK"), TemplateOptions(template_mmcif=tmp_path / "none"), search)
    with pytest.raises(UserError, match="holds no mmCIF file"):
        attach(job_of("MKVLAAGIVRK"), TemplateOptions(template_mmcif=tmp_path), search)
    (tmp_path / "1bad.cif").write_text("nothing")
    with pytest.raises(UserError, match="none of its 1 mmCIF files could be read"):
        attach(job_of("MKVLAAGIVRK"), TemplateOptions(template_mmcif=tmp_path), search)


def test_templates_of_the_server(shared_data, tmp_path, ferritin, caplog):
    directory = shared_data / "mini_databases" / "mmcif"
    replay = Replay(structures={"6s61": directory / "6s61.cif"}, templates=("6s61_A", "../../evil", "6S61_B"))
    with serving(replay):
        search = SearchOptions(msa="server", msa_server=replay.address, search_cache=tmp_path / "cache")
        options = TemplateOptions(templates="server", max_template_date="2030-01-01")
        with caplog.at_level(logging.INFO):
            done = attach(job_of(ferritin), options, search)
        assert len(done.chains[0].templates) == 1 and accepted(caplog)[0].startswith("6s61_")
        paths = [path for _, path in replay.requests]
        assert paths[-1] == "/template/6s61_A,6S61_B"
        attach(job_of(ferritin), options, search)
        assert len(replay.requests) == len(paths)  # kept


def test_a_server_without_templates(tmp_path):
    with serving(Replay()) as replay:
        search = SearchOptions(msa="server", msa_server=replay.address, search_cache=tmp_path / "cache")
        done = attach(job_of("MKVLAAGIVRK"), TemplateOptions(templates="server"), search)
    assert len(done.chains[0].templates) == 0

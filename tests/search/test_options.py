"""Options of search and templates: what is accepted, what is not, and what the help says."""

import pytest
import tyro

from fastfold_jax.errors import UserError
from fastfold_jax.search.config import SearchOptions, TemplateOptions

REFUSED = {
    "--msa local: needs --databases": lambda: SearchOptions(msa="local"),
    "--search-threads 0": lambda: SearchOptions(search_threads=0),
    "--max-evalue 0": lambda: SearchOptions(max_evalue=0),
    "--max-evalue nan": lambda: SearchOptions(max_evalue=float("nan")),
    "--msa-server ftp://x": lambda: SearchOptions(msa_server="ftp://x"),
    "--msa-server http://[": lambda: SearchOptions(msa_server="http://["),
    "--msa-server-contact": lambda: SearchOptions(msa_server_contact="a\r\nX-Header: b"),
    "--msa-server-patience -1": lambda: SearchOptions(msa_server_patience=-1),
    "--templates local: needs --template-mmcif": lambda: TemplateOptions(templates="local"),
    "--template-hits: needs --template-mmcif": lambda: TemplateOptions(template_hits=("hits.hhr",)),
    "--template-hits: are for --templates local, not server": lambda: TemplateOptions(
        template_hits=("hits.hhr",), template_mmcif="mmcif", templates="server"
    ),
    "--max-template-date tomorrow: accepted are dates": lambda: TemplateOptions(max_template_date="tomorrow"),
    "--max-template-date 2021-1-1: accepted are dates": lambda: TemplateOptions(max_template_date="2021-1-1"),
    "--max-template-date 20210101: accepted are dates": lambda: TemplateOptions(max_template_date="20210101"),
    "--max-templates 0": lambda: TemplateOptions(max_templates=0),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_refused(message):
    with pytest.raises(UserError) as raised:
        REFUSED[message]()
    assert message in str(raised.value)


def test_modes(tmp_path):
    assert SearchOptions().mode == "none" and TemplateOptions().mode == "none"
    assert SearchOptions(databases=(tmp_path,)).mode == "local"
    assert SearchOptions(databases=(tmp_path,), msa="none").mode == "none"
    assert TemplateOptions(template_mmcif=tmp_path).mode == "local"
    assert SearchOptions(no_search_cache=True).cache_directory is None
    assert SearchOptions(search_cache=tmp_path).cache_directory == tmp_path


def test_the_command_line(capsys, tmp_path):
    options = tyro.cli(SearchOptions, args=["--databases", str(tmp_path), "b", "--msa", "local"])
    assert options.databases[0] == tmp_path and len(options.databases) == 2
    for group in (SearchOptions, TemplateOptions):
        with pytest.raises(SystemExit):
            tyro.cli(group, args=["--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "MINUTES" in said and "YYYY-MM-DD" in said and "default: no limit" in said

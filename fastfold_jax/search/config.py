"""The options of sequence and template search."""

import dataclasses
import datetime
import os
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

import tyro

from fastfold_jax.checks import iso_date
from fastfold_jax.config.options import at_least, cache_directory, option, positive
from fastfold_jax.errors import UserError

MsaMode = Literal["auto", "none", "local", "server"]
TemplateMode = Literal["auto", "none", "local", "server"]

PUBLIC_SERVER = "https://api.colabfold.com"


@dataclasses.dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """Where alignments come from for chains that the input gives none."""

    msa: Annotated[
        MsaMode,
        option(
            "Where to search for chains without alignment: `local` in --databases, `server` by sending the sequences "
            "to --msa-server, `none` nowhere (alignments of the input are still used). `auto` is local where "
            "--databases is given and none otherwise; nothing is ever sent unless `server` is asked for."
        ),
    ] = "auto"
    databases: Annotated[
        tuple[Path, ...],
        option(
            "Databases, or directories of them: FASTA files (plain or packed; searched by jackhmmer, built in), "
            "MMseqs2 and HH-suite databases (their prefixes; searched with those programs). What each is for is told "
            "from its name: uniref90, mgnify (mgy_clusters), bfd, uniclust30, uniref30, uniprot (for pairing), "
            "pdb_seqres (for templates); others are merged last.",
            metavar="PATH [PATH ...]",
            default="none",
        ),
    ] = ()
    search_threads: Annotated[
        int | None, option("Most processor cores that searches use.", metavar="N", default="all of them")
    ] = None
    max_evalue: Annotated[
        float, option("Largest E-value of a hit in a jackhmmer search, reported and included.", metavar="E")
    ] = 1e-4
    search_cache: Annotated[
        Path | None,
        option(
            "Where search results are kept, so that no sequence is searched twice.",
            metavar="DIR",
            default="fastfold-jax/search in the user's cache directory",
        ),
    ] = None
    no_search_cache: Annotated[
        bool, tyro.conf.FlagCreatePairsOff, option("Neither keep search results nor use kept ones.")
    ] = False
    mmseqs: Annotated[
        str, option("The MMseqs2 program, for databases of its kind: a name on the PATH, or a file.", metavar="PROGRAM")
    ] = "mmseqs"
    hhblits: Annotated[
        str, option("HH-suite's hhblits, for databases of its kind: a name on the PATH, or a file.", metavar="PROGRAM")
    ] = "hhblits"
    msa_server: Annotated[str, option("Address of a server that speaks ColabFold's MSA protocol.", metavar="URL")] = (
        PUBLIC_SERVER
    )
    msa_server_environmental: Annotated[
        bool, option("Let the server search environmental sequences besides UniRef.")
    ] = True
    msa_server_pairing: Annotated[
        Literal["greedy", "complete"],
        option(
            "Which rows of a complex the server pairs: of species found in at least two chains (greedy), or only of "
            "those in all chains (complete)."
        ),
    ] = "greedy"
    msa_server_contact: Annotated[
        str | None,
        option(
            "How the server's people may reach you, such as an email address; sent with each request.",
            metavar="TEXT",
            default="none",
        ),
    ] = None
    msa_server_patience: Annotated[
        float, option("Most time to wait for an answer of the server that is queued or busy.", metavar="MINUTES")
    ] = 120.0

    def __post_init__(self):
        at_least(1, search_threads=self.search_threads)
        positive(max_evalue=self.max_evalue, msa_server_patience=self.msa_server_patience)
        if self.msa == "local" and not self.databases:
            raise UserError("--msa local: needs --databases, FASTA files or directories of them to search")
        try:
            address = urlsplit(self.msa_server)
        except ValueError:
            address = urlsplit("")
        if address.scheme not in ("http", "https") or not address.netloc:
            raise UserError(f"--msa-server {self.msa_server}: accepted are http:// and https:// addresses")
        if self.msa_server_contact is not None and not self.msa_server_contact.isprintable():
            raise UserError("--msa-server-contact: accepted is one line of text")

    @property
    def mode(self) -> Literal["none", "local", "server"]:
        """`msa`, with `auto` resolved."""
        return ("local" if self.databases else "none") if self.msa == "auto" else self.msa

    @property
    def threads(self) -> int:
        """Processor cores to use."""
        return self.search_threads or os.cpu_count() or 1

    @property
    def cache_directory(self) -> Path | None:
        """Where results are kept, or None for nowhere."""
        return cache_directory("search", self.search_cache, off=self.no_search_cache)


@dataclasses.dataclass(frozen=True, kw_only=True)
class TemplateOptions:
    """Which known structures a model may look at; only models 1 and 2 and multimers use any."""

    templates: Annotated[
        TemplateMode,
        option(
            "Where to look for templates: `local` among --template-mmcif, `server` among those that --msa-server "
            "finds and sends, `none` nowhere (custom ones are still used). `auto` is local where --template-mmcif is "
            "given and none otherwise."
        ),
    ] = "auto"
    template_mmcif: Annotated[
        Path | None,
        option(
            "Directory of mmCIF files (1abc.cif, packed or not, also in sub-directories by the middle letters, as the "
            "PDB divides them).",
            metavar="DIR",
            default="none",
        ),
    ] = None
    template_hits: Annotated[
        tuple[Path, ...],
        option(
            "Hits found before, in place of a search: .hhr of HHsearch, .sto or .a3m of hmmsearch, or directories "
            "with them (pdb_hits.*; with chain1_ and so on, or in a sub-directory a chain, for a complex).",
            metavar="PATH [PATH ...]",
            default="those that lie with the input's alignments, else none",
        ),
    ] = ()
    template_sequences: Annotated[
        Path | None,
        option(
            "FASTA file of the chains of the PDB (pdb_seqres) to search in.",
            metavar="FILE",
            default="a pdb_seqres among --databases, else the sequences in --template-mmcif",
        ),
    ] = None
    custom_templates: Annotated[
        tuple[str, ...],
        option(
            "Structures to use whatever their date and likeness, before any that were found: FILE (mmCIF or PDB; of "
            "its chains the one most alike), FILE:CHAIN, or ID=FILE:CHAIN for the chain ID of the job only; a "
            "directory in place of FILE is all structures in it.",
            metavar="[ID=]FILE[:CHAIN] ...",
            default="none",
        ),
    ] = ()
    max_template_date: Annotated[
        str | None,
        option("Leave out structures released after this day.", metavar="YYYY-MM-DD", default="no limit"),
    ] = None
    max_templates: Annotated[
        int, option("Most templates of each chain to keep; a model uses the first four.", metavar="N")
    ] = 20
    obsolete_pdbs: Annotated[
        Path | None,
        option(
            "The PDB's list of replaced entries, obsolete.dat; hits to them lead to their successors.",
            metavar="FILE",
            default="none",
        ),
    ] = None

    def __post_init__(self):
        at_least(1, max_templates=self.max_templates)
        self.latest()
        if self.template_mmcif is None and (self.templates == "local" or self.template_hits):
            why = "--templates local" if self.templates == "local" else "--template-hits"
            raise UserError(f"{why}: needs --template-mmcif, the directory of structures")
        if self.template_hits and self.mode != "local":
            raise UserError(f"--template-hits: are for --templates local, not {self.mode}")

    @property
    def mode(self) -> Literal["none", "local", "server"]:
        """`templates`, with `auto` resolved."""
        return ("local" if self.template_mmcif else "none") if self.templates == "auto" else self.templates

    def latest(self) -> datetime.date | None:
        """`max_template_date` as a date.

        Raises:
          UserError: if it is not a date.
        """
        return iso_date(self.max_template_date, "--max-template-date")

"""Where compiled programs are kept: whatever was compiled before, and nowhere once that has ended."""

import jax
import jax.numpy as jnp
import pytest

from fastfold_jax.backend.compile_cache import use_compile_cache


def compile_one(factor):
    jax.jit(lambda x: x * factor).lower(jnp.ones(3)).compile()


def programs(directory):
    return {path.name for path in directory.iterdir()}


def test_directories_may_change_between_programs(tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    compile_one(2.0)
    use_compile_cache(first)
    compile_one(3.0)
    kept = programs(first)
    assert kept
    use_compile_cache(second)
    compile_one(4.0)
    others = programs(second)
    assert others and programs(first) == kept
    use_compile_cache(None)
    compile_one(5.0)
    assert (programs(first), programs(second)) == (kept, others)


@pytest.mark.parametrize("kind", ["file", "below a file"])
def test_a_directory_that_cannot_be_made_is_told(tmp_path, kind, caplog):
    (tmp_path / "file").write_text("")
    use_compile_cache(tmp_path / "file" / ("" if kind == "file" else "cache"))
    assert "cannot be made" in caplog.text and jax.config.jax_compilation_cache_dir is None

"""The AlphaFold 2 network: one code path for monomers and multimers, one device and many."""

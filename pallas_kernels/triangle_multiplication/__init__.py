"""The triangle multiplication operation: public function, reference and kernels."""

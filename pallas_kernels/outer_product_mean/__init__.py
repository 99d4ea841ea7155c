"""The outer product mean operation: public function, reference and kernels."""

"""The transition operation: public function, reference and kernels."""

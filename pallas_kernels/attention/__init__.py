"""The attention operation: public function, reference and kernels."""

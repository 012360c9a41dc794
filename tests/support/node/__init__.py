"""A real Kubernetes node on this machine: kubelet, containerd and all else that runs pods, in namespaces of its own."""

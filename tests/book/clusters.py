"""A Dask cluster for tests."""

import distributed


def cluster_in_place(workers=1, security=None):
    """A cluster inside this process: as real as any, without processes to start."""
    return distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=False,
        host="127.0.0.1",
        protocol="tls" if security else "tcp",
        security=security,
        dashboard_address="127.0.0.1:0",
    )

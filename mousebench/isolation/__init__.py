"""Run other people's plugins in a process of their own, and let only arrays and plain text that are checked come back.

    plugins.discover -> remote.declare -> Process -> warden.py -> mousebench.child -> the plugin
    Spec.load -> remote.Remote -> proxies.IsolatedModel / IsolatedMetric / IsolatedBenchmark

``warden`` starts the plugin's process, watches memory, processes and disk of everything that it starts, and ends all of
it. ``process`` gives it an environment without credentials and a home of its own, asks it one thing at a time, and has
the clock. ``channel`` carries JSON and bytes, ``packing`` makes xarray objects of them; nothing is ever unpickled.
``hardening`` lets the kernel refuse writes elsewhere, where it can. ``remote`` and ``proxies`` are what the rest of the
program sees: Specs and things that answer as the plugin's own would. docs/security.md says what this is good for.
"""

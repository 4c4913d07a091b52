"""The pytest plugin of EasyCluster: ready-made proxies for the hosts of a lab file.

pytest --ec-inventory lab.yaml
"""

"""Home of the modules that roles' code becomes: ``from easycluster.lab.roles.gpu import DriverError``.

They exist while a lab with such a role is loaded, and are evaluated here when something first asks for one of their
names.
"""

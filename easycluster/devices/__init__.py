"""Devices of a lab that we can speak to or stand in for."""

"""Darcy flow: from the permeability of a porous medium to the pressure of the fluid in it."""

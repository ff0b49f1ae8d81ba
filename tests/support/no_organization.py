"""Deployments without an organization."""

from .lab.process import DOMAIN

ACME, NOBODY = f"orders+acme@{DOMAIN}", f"orders@{DOMAIN}"

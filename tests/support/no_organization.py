"""Deployments without an organization."""

from .lab.deployment import DOMAIN

ACME, NOBODY = f"orders+acme@{DOMAIN}", f"orders@{DOMAIN}"

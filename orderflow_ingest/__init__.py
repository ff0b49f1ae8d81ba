"""OrderFlow ingest: purchase orders by e-mail, from Postfix to stored documents. See README.md."""

__version__ = "0.1.0"

# Where no module has the name, one of a former version may: master.cf and handlers outlive an upgrade.
__path__.append(f"{__path__[0]}/entrypoints/former_names")

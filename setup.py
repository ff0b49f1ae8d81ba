"""Build and install OrderFlow ingest; why each dependency is there stands beside it."""

import re
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
version = re.search(r'__version__ = "(.+)"', (here / "orderflow_ingest" / "__init__.py").read_text())

setup(
    name="orderflow-ingest",
    version=version[1],
    description="Takes purchase orders by e-mail from Postfix, archives them and stores their documents",
    long_description=(here / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    license_files=["LICENSE"],
    keywords=["email", "postfix", "smtp", "lmtp", "mime", "ingest", "purchase orders", "archive", "s3", "huey"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: No Input/Output (Daemon)",
        "Intended Audience :: System Administrators",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Topic :: Communications :: Email :: Mail Transport Agents",
        "Topic :: Communications :: Email :: Post-Office",
        "Typing :: Typed",
    ],
    python_requires=">=3.11",
    packages=[
        *find_packages(include=["orderflow_ingest", "orderflow_ingest.*"]),
        "orderflow_ingest.migrations",
        "orderflow_ingest.migrations.versions",
        "orderflow_ingest.postfix",
    ],
    package_dir={"orderflow_ingest.migrations": "migrations", "orderflow_ingest.postfix": "postfix"},
    package_data={
        "orderflow_ingest": ["py.typed"],
        "orderflow_ingest.entrypoints.console": ["templates/*.html", "static/*"],
        "orderflow_ingest.migrations": ["script.py.mako", "*.sql"],
        "orderflow_ingest.postfix": ["*.cf"],
    },
    install_requires=[
        "alembic>=1.13,<2",  # schema steps; SQLAlchemy's own
        "boto3>=1.36,<2",  # S3; 1.36 is the first that sends checksums by itself
        "chardet>=7,<8",  # raw 8-bit file names and subjects: right about short ones, see mime/charsets.py
        "aiosmtpd>=1.4.6,<1.5",  # LMTP and SMTP of the service, which overrides some of it; 1.4.6 ended smuggling
        "click>=8.2,<9",  # the operator's programs
        "huey>=3.5,<4",  # the queue; 3.5 is the first with PostgreSQL
        # Archives need none: our own modules read 7z and tar over lzma, bz2 and zlib of the standard library.
        # py7zr brings seven packages in C. libarchive reads hostile bytes in C, in the process that holds all keys.
        "olefile>=0.47,<1",  # the compound files that Outlook messages are; pure Python
        "prometheus-client>=0.20,<1",  # writes the page of orderflow-metrics; no other program loads it
        "puremagic>=1.28,<3",  # content types by signature; pure Python, alive, no libmagic to install
        "psycopg[binary]>=3.2,<4",  # PostgreSQL; the binary brings its own libpq
        "python-json-logger>=3.2,<5",  # log records
        "resiliparse>=2,<3",  # text out of HTML bodies: reads like a browser, keeps table rows together, loads in 3 ms
        "waitress>=3.0.2,<4",  # the HTTP server of exporter and console: pure Python, no children, TCP or unix socket
        "SQLAlchemy>=2.0.30,<3",  # one code path for PostgreSQL and SQLite
    ],
    extras_require={
        "redis": ["redis>=5,<9"],  # QUEUE_URL=redis://
        "console": [  # orderflow-console; what it needs of sessions, forms' tokens and users is its own
            "Flask>=3.1,<4",  # pages and templates that escape; brings Werkzeug, which hashes the passwords
        ],
        "benchmark": [  # only measured beside our own reader, by benchmarks/extraction
            "mail-parser>=4,<5",  # what many programs take: the standard library made convenient
            "fast-mail-parser>=0.10,<1",  # in Rust: what compiled code makes of the same mail
        ],
        "docs": [  # the site: what Python projects use, and what reads click's commands
            *("Sphinx>=8,<10", "myst-parser>=4,<6", "furo>=2025.9", "sphinx-click>=6,<7"),
        ],
        "fuzz": ["atheris>=2.3,<4"],  # guides tests/support/fuzz.py by coverage; it needs none for its own engine
        "test": [
            *(
                "pytest>=8",
                "pytest-timeout>=2.3",
                "pytest-xdist>=3.5",
                "redis>=5,<9",
                "openpyxl>=3.1",
                "pyyaml>=6",
                "ruff",
                "mypy",
                "import-linter>=2.17,<3",  # holds who may import whom, see pyproject.toml
                "codespell>=2.4,<3",  # misspelled words in code and texts
            ),
            *("Flask>=3.1,<4", "selenium>=4.20,<5", "axe-core-python>=0.1,<1"),
            *("Sphinx>=8,<10", "myst-parser>=4,<6", "furo>=2025.9", "sphinx-click>=6,<7"),
        ],
    },
    # Not a console script: those begin with imports that can fail with exit 1, which bounces mail.
    scripts=["postfix/orderflow-deliver"],
    entry_points={
        "console_scripts": [
            "orderflow-admin=orderflow_ingest.entrypoints.admin.main:main",
            "orderflow-console=orderflow_ingest.entrypoints.console.main:main",
            "orderflow-metrics=orderflow_ingest.entrypoints.exporter.main:main",
            "orderflow-replay=orderflow_ingest.entrypoints.replay.main:main",
            "orderflow-service=orderflow_ingest.entrypoints.service.daemon:main",
        ]
    },
)

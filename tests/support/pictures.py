"""The smallest pictures."""

PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 3000

"""The demo: a purchase order goes by SMTP into a private Postfix and comes out as documents.

Everything is real and embedded: Postfix on a loopback port, `orderflow-deliver` behind its pipe, the service, a Huey
consumer, SQLite, files. What the demo prints comes from the programs. Its exit status is 1 if the result is wrong.
"""

import argparse
import io
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from email.message import EmailMessage
from email.utils import formatdate

from openpyxl import Workbook

from ..order_pdf import PDF
from . import smtp
from .deployment import DOMAIN, ENVIRONMENT, Deployment
from .process import Process, free_port, listening, scratch

BUYER = "purchasing@buyer.example"
LOGIN, PASSWORD = "demo", "demo-password"


def purchase_order() -> bytes:
    """Write a purchase order with a PDF, an Excel and a CSV attachment."""
    mail = EmailMessage()
    mail["From"], mail["To"], mail["Subject"] = BUYER, f"orders@{DOMAIN}", "Purchase order 4711: 12 widgets"
    mail["Date"], mail["Message-ID"] = formatdate(), f"<{uuid.uuid4()}@buyer.example>"
    mail.set_content("Please find our order attached.\n")
    book, sheet = Workbook(), io.BytesIO()
    book.active.append(["item", "quantity"])
    book.active.append(["widget", 12])
    book.save(sheet)
    excel = "vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    mail.add_attachment(PDF, maintype="application", subtype="pdf", filename="order-4711.pdf")
    mail.add_attachment(sheet.getvalue(), maintype="application", subtype=excel, filename="order-4711.xlsx")
    mail.add_attachment(b"item,quantity\nwidget,12\n", maintype="text", subtype="csv", filename="positions.csv")
    return mail.as_bytes()


def main() -> None:
    """Run the demo."""
    arguments = argparse.ArgumentParser(prog="script/demo", description="Send an order through a private deployment.")
    arguments.add_argument("--keep", action="store_true", help="leave it running, to be tried by hand")
    keep = arguments.parse_args().keep
    with scratch() as place:
        port = free_port()
        deployment = Deployment(place, {"ORDERFLOW_CONSOLE": f"127.0.0.1:{port}"}, service=True)
        with _step("Set up SQLite, the file archive and the organization acme"):
            deployment.set_up("acme")
        with ExitStack() as running:
            with _step("Start the service, a worker and a private Postfix"):
                running.enter_context(deployment)
            is_good = show(deployment)
            if keep:
                with _step("Start the console"):
                    running.enter_context(_console(deployment, port))
                wait(deployment, port)
    sys.exit(not is_good)


def show(deployment: Deployment) -> bool:
    """Send mails, print what became of them, and return whether all is as it should be."""
    order, acme, nobody = purchase_order(), f"orders+acme@{DOMAIN}", f"orders+nobody@{DOMAIN}"
    port = deployment.postfix.smtp_port
    with _step(f"Send a purchase order to {acme} by SMTP") as result:
        first = smtp.send(port, BUYER, [acme], order).data
        assert first
        result(f"{first.code} {first.text}")
    with _step("Wait until its documents are handed over") as result:
        rows = deployment.wait_finished(1)
        documents = deployment.documents(rows[0]["id"])
        result(f"{len(documents)} documents")
    with _step("Send the same order again") as result:
        again = smtp.send(port, BUYER, [acme], order).data
        assert again
        deployment.postfix.wait_log(r"status=sent \(.*message known already")
        rows = deployment.wait_finished(1)
        result(f"{again.code}, still {len(rows)} message")
    with _step(f"Send an order to {nobody}") as result:
        unknown = smtp.send(port, BUYER, [nobody], order).rcpt[0]
        result(f"{unknown.code} {unknown.text}")
    print("\nThe message:\n" + deployment.admin("list"))
    print("Its documents:\n" + deployment.admin("documents", rows[0]["id"]))
    names = {document["filename"] for document in documents}
    is_good = (
        (first.code, again.code, unknown.code) == (250, 250, 550)
        and [row["status"] for row in rows] == ["PARSED"]
        and names == {None, "order-4711.pdf", "order-4711.xlsx", "positions.csv"}
    )
    print("The demo worked: one order, recorded once, with its text and three files." if is_good else FAILED)
    return is_good


FAILED = "The demo FAILED: compare the lines above with the README."


@contextmanager
def _step(what: str) -> Iterator[Callable[[str], None]]:
    """Print a step before it begins, and how it ended and how long it took after it."""
    print(f"* {what} ...", end=" ", flush=True)
    began, results = time.monotonic(), list[str]()
    yield results.append
    print(f"{', '.join(results) or 'done'} ({time.monotonic() - began:.1f} s)")


def _console(deployment: Deployment, port: int) -> Process:
    """Return the console's process, into which LOGIN may log in."""
    subprocess.run(
        [deployment.programs / "orderflow-console", "user", "add", LOGIN, "--may-change"],
        env={**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file)},
        input=f"{PASSWORD}\n{PASSWORD}\n", text=True, check=True, capture_output=True, **deployment.credentials(),
    )  # fmt: skip
    return Process(
        [deployment.programs / "orderflow-console", "serve"],
        deployment.directory / "console.log",
        ready=lambda: listening(port),
        user=deployment.user,
        env={**ENVIRONMENT, "ORDERFLOW_SETTINGS": str(deployment.settings_file)},
    )


def wait(deployment: Deployment, console_port: int) -> None:
    """Print how to try the deployment by hand, and wait for Ctrl-C."""
    mail, env = deployment.directory / "order.eml", deployment.directory / "env"
    mail.write_bytes(purchase_order())
    env.write_text(f"export ORDERFLOW_SETTINGS={deployment.settings_file}\nexport PATH={deployment.programs}:$PATH\n")
    port = deployment.postfix.smtp_port
    print(f"""
The deployment is left running. In another terminal, as root:

  . {env}
  orderflow-admin find 4711
  orderflow-admin show {deployment.messages()[0]["id"]}
  orderflow-admin status
  orderflow-admin check --postfix-config {deployment.postfix.config_directory}
  curl smtp://127.0.0.1:{port} --mail-from {BUYER} \\
      --mail-rcpt orders+acme@{DOMAIN} --upload-file {mail}
  tail -f {deployment.postfix.directory}/maillog {deployment.worker.log}

The console is at http://127.0.0.1:{console_port}/ - log in as {LOGIN} with the password {PASSWORD}.

Ctrl-C ends it and removes {deployment.directory}.""")
    try:
        while True:
            time.sleep(3600)
    except KeyboardInterrupt:
        print()


if __name__ == "__main__":
    main()

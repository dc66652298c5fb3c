"""What the Terraform files say that must not be lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "infra" / "terraform"
ALONE = os.environ | {"CHECKPOINT_DISABLE": "1"}  # it would ask for newer versions of itself
TEXT = "\n".join(p.read_text() for p in sorted(FOLDER.glob("*.tf")))


def block(head: str) -> str:
    (found,) = re.findall(rf"^{re.escape(head)} {{\n.*?^}}", TEXT, re.S | re.M)
    return str(found)


def test_ssh_has_no_default_and_never_the_whole_world() -> None:
    variable = block('variable "ssh_cidr"')
    assert "default" not in variable
    assert "validation" in variable


def test_the_bucket_is_private_encrypted_and_swept() -> None:
    assert block('resource "aws_s3_bucket_public_access_block" "this"').count("= true") == 4
    assert "abort_incomplete_multipart_upload" in block('resource "aws_s3_bucket_lifecycle_configuration" "this"')
    assert '"Enabled"' in block('resource "aws_s3_bucket_versioning" "this"')
    assert "sse_algorithm" in block('resource "aws_s3_bucket_server_side_encryption_configuration" "this"')


def test_no_role_may_do_anything_to_all_buckets() -> None:
    granted = re.findall(r'"(\w+:[\w*]+)"', TEXT.replace(block('data "aws_iam_policy_document" "tls_only"'), ""))
    assert [a for a in granted if a.startswith(("s3:", "iam:")) and "*" in a] == []
    assert "s3:DeleteObjectVersion" not in granted
    assert 'resources = ["*"]' not in block('data "aws_iam_policy_document" "bucket"')


@pytest.fixture
def terraform() -> str:
    if shutil.which("terraform") is None:
        pytest.skip("terraform is not here: its files were not read by it")
    return "terraform"


@pytest.mark.parametrize(
    ("network", "allowed"),
    [("198.51.100.7/32", True), ("10.1.0.0/16", True), ("0.0.0.0/0", False), ("10.0.0.0/8", False), ("::/0", False)],
)
def test_terraform_refuses_ssh_from_the_whole_world(terraform: str, network: str, allowed: bool, tmp_path: Path) -> None:
    (tmp_path / "variables.tf").write_text(block('variable "ssh_cidr"'))  # alone, it needs no provider and no network
    command = [terraform, "plan", "-input=false", "-no-color", "-var", f"ssh_cidr={network}"]
    made = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=ALONE)
    assert (made.returncode == 0) is allowed, made.stdout + made.stderr
    assert allowed or "validation rule" in made.stderr


def test_terraform_formats_them_so(terraform: str) -> None:
    made = subprocess.run([terraform, "fmt", "-check", "-diff", FOLDER], capture_output=True, text=True, timeout=60, env=ALONE)
    assert made.returncode == 0, made.stdout + made.stderr

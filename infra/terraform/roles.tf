# Machines and pods that meet recordings may read and write this bucket, pull this image, and nothing else.
data "aws_iam_policy_document" "bucket" {
  statement {
    sid       = "List"
    actions   = ["s3:ListBucket", "s3:GetBucketLocation", "s3:ListBucketMultipartUploads"]
    resources = [aws_s3_bucket.this.arn]
  }
  # Deleting is part of the work: unfinished and superseded checkpoints go. Old versions stay, which no machine may delete.
  statement {
    sid       = "Objects"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload", "s3:ListMultipartUploadParts"]
    resources = [for prefix in local.prefixes : "${aws_s3_bucket.this.arn}/${prefix}/*"]
  }
  statement {
    sid       = "Clips"
    actions   = ["s3:GetObject"]
    resources = [for prefix in ["clips", "new-clips"] : "${aws_s3_bucket.this.arn}/${prefix}/*"]
  }
}

locals {
  prefixes = ["features", "runs", "sweeps", "scores"] # what jobs write; clips they only read
}

data "aws_iam_policy_document" "registry" {
  statement {
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"] # it knows no other
  }
  statement {
    actions   = ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer", "ecr:BatchCheckLayerAvailability"]
    resources = [aws_ecr_repository.this.arn]
  }
}

# The head starts and ends machines, of this cluster alone, and gives them the workers' role alone.
data "aws_iam_policy_document" "autoscaler" {
  statement {
    sid       = "Look"
    actions   = ["ec2:Describe*"]
    resources = ["*"] # they know no other
  }
  statement {
    sid     = "Start"
    actions = ["ec2:RunInstances"]
    resources = [
      "${local.aws}:ec2:${var.region}:${local.account}:network-interface/*",
      "${local.aws}:ec2:${var.region}:${local.account}:volume/*",
      "${local.aws}:ec2:${var.region}:${local.account}:subnet/*",
      "${local.aws}:ec2:${var.region}:${local.account}:key-pair/*",
      "${local.aws}:ec2:${var.region}:${local.account}:spot-instances-request/*",
      "${local.aws}:ec2:${var.region}:${local.account}:security-group/${aws_security_group.cluster.id}",
      "${local.aws}:ec2:${var.region}::image/*",
    ]
  }
  statement {
    sid       = "StartTagged"
    actions   = ["ec2:RunInstances"]
    resources = ["${local.aws}:ec2:${var.region}:${local.account}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/ray-cluster-name"
      values   = [var.name]
    }
  }
  statement {
    sid       = "TagAtStart"
    actions   = ["ec2:CreateTags"]
    resources = ["${local.aws}:ec2:${var.region}:${local.account}:*/*"]
    condition {
      test     = "StringEquals"
      variable = "ec2:CreateAction"
      values   = ["RunInstances"]
    }
  }
  statement {
    sid       = "OwnMachines"
    actions   = ["ec2:CreateTags", "ec2:TerminateInstances"]
    resources = ["${local.aws}:ec2:${var.region}:${local.account}:instance/*"]
    condition {
      test     = "StringEquals"
      variable = "aws:ResourceTag/ray-cluster-name"
      values   = [var.name]
    }
  }
  statement {
    sid       = "GiveRole"
    actions   = ["iam:PassRole"]
    resources = [aws_iam_role.worker.arn]
  }
}

data "aws_iam_policy_document" "machines" {
  statement {
    actions = ["sts:AssumeRole"]
    principals {
      type        = "Service"
      identifiers = ["ec2.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "head" {
  name               = "${var.name}-head"
  assume_role_policy = data.aws_iam_policy_document.machines.json
}

resource "aws_iam_role" "worker" {
  name               = "${var.name}-worker"
  assume_role_policy = data.aws_iam_policy_document.machines.json
}

resource "aws_iam_instance_profile" "head" {
  name = "${var.name}-head"
  role = aws_iam_role.head.name
}

resource "aws_iam_instance_profile" "worker" {
  name = "${var.name}-worker"
  role = aws_iam_role.worker.name
}

resource "aws_iam_role_policy" "bucket" {
  for_each = { head = aws_iam_role.head.name, worker = aws_iam_role.worker.name }
  name     = "bucket"
  role     = each.value
  policy   = data.aws_iam_policy_document.bucket.json
}

resource "aws_iam_role_policy" "registry" {
  for_each = { head = aws_iam_role.head.name, worker = aws_iam_role.worker.name }
  name     = "registry"
  role     = each.value
  policy   = data.aws_iam_policy_document.registry.json
}

resource "aws_iam_role_policy" "autoscaler" {
  name   = "autoscaler"
  role   = aws_iam_role.head.name
  policy = data.aws_iam_policy_document.autoscaler.json
}

# For KubeRay: the role of the two service accounts in cluster/k8s. Nodes pull the image, so it needs the bucket alone.
data "aws_iam_policy_document" "pods" {
  count = var.oidc_provider_arn == null ? 0 : 1
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [var.oidc_provider_arn]
    }
    condition {
      test     = "StringEquals"
      variable = "${split("oidc-provider/", var.oidc_provider_arn)[1]}:sub"
      values   = [for account in ["head", "worker"] : "system:serviceaccount:${var.namespace}:${account}"]
    }
    condition {
      test     = "StringEquals"
      variable = "${split("oidc-provider/", var.oidc_provider_arn)[1]}:aud"
      values   = ["sts.amazonaws.com"]
    }
  }
}

resource "aws_iam_role" "pods" {
  count              = var.oidc_provider_arn == null ? 0 : 1
  name               = "${var.name}-pods"
  assume_role_policy = data.aws_iam_policy_document.pods[0].json
}

resource "aws_iam_role_policy" "pods" {
  count  = var.oidc_provider_arn == null ? 0 : 1
  name   = "bucket"
  role   = aws_iam_role.pods[0].name
  policy = data.aws_iam_policy_document.bucket.json
}

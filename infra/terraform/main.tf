# What a cluster on AWS needs beside the machines, which Ray starts itself: a bucket, a registry, roles and a security group.
# The network and, for KubeRay, the EKS cluster are the account's own: every account has rules for those already.

terraform {
  required_version = ">= 1.5"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = ">= 5.40, < 7.0"
    }
  }
}

provider "aws" {
  region = var.region
  default_tags { tags = { project = var.name } }
}

data "aws_caller_identity" "this" {}
data "aws_partition" "this" {}

locals {
  account = data.aws_caller_identity.this.account_id
  aws     = "arn:${data.aws_partition.this.partition}"
}

variable "name" {
  description = "Begins the names of all that is made here; the cluster_name in cluster/aws.yaml."
  type        = string
  default     = "rrnn"
}

variable "region" {
  type = string
}

variable "bucket" {
  description = "The bucket to make, for clips, features, runs and scores."
  type        = string
}

variable "vpc_id" {
  type = string
}

variable "ssh_cidr" {
  description = "Who may reach the head by ssh, and so all of the cluster: your own address or network."
  type        = string

  validation {
    condition     = can(cidrnetmask(var.ssh_cidr)) && try(tonumber(split("/", var.ssh_cidr)[1]) >= 16, false)
    error_message = "Expected an IPv4 network of /16 or smaller, such as 198.51.100.7/32: never the whole world."
  }
}

variable "oidc_provider_arn" {
  description = "Of the EKS cluster that KubeRay runs on; leave it out without one."
  type        = string
  default     = null
}

variable "namespace" {
  description = "Of cluster/k8s."
  type        = string
  default     = "rrnn"
}

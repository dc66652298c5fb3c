# What cluster/aws.yaml and cluster/k8s/overlays ask for.

output "bucket" {
  value = "s3://${aws_s3_bucket.this.bucket}"
}

output "registry" {
  value = split("/", aws_ecr_repository.this.repository_url)[0]
}

output "security_group" {
  value = aws_security_group.cluster.id
}

output "profiles" {
  value = { head = aws_iam_instance_profile.head.name, worker = aws_iam_instance_profile.worker.name }
}

output "pods_role" {
  value = one(aws_iam_role.pods[*].arn)
}

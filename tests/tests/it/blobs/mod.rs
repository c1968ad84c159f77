//! The stores of the origin's blobs: one suite that every driver passes, and what each has of its own.

mod ceph;
mod conformance;
mod file_system;
mod s3;

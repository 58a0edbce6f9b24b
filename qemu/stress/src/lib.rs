//! The main job: rebuild real mount trees and stress them on all CPUs.
#![no_std]

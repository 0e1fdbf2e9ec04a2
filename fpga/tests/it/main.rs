//! Bitstreams, workers and leases on the real PoCL. Where it is missing, every test says that it is skipped, and fails
//! where `CI=true`.

#[cfg(test)]
mod bad_images;
#[cfg(test)]
mod bench;
#[cfg(test)]
mod channels;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod devices;
#[cfg(test)]
mod ends;
#[cfg(test)]
mod kernels;
#[cfg(test)]
mod leases;
#[cfg(test)]
mod programs;

//! The documents from outside: what is accepted, what is refused, and in which words.

#[cfg(test)]
mod bounds;
#[cfg(test)]
mod conda;
#[cfg(test)]
mod messages;
#[cfg(test)]
mod requests;
#[cfg(test)]
mod round_trip;
#[cfg(test)]
mod sample;
#[cfg(test)]
mod warnings;

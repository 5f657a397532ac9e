//! Decoders of bytes from outside that are nobody's interface, for `tests/fuzz`.

pub use crate::{
    infra::intake::wire::{Broken, Op, next as next_op},
    workers::edge::{
        decode_unsigned,
        query::{
            content::decode_canonical,
            list::{page::PageStart, position::ListPosition},
            pages::{PagedList, place::PagePlace},
        },
    },
};

//! Being a member of a group: who coordinates it and who belongs to it ([`member`], [`view`]), which queues fall to this
//! member and which it owns ([`ownership`], [`keeper`]), and until when it may work on them ([`lease`]).

pub(crate) mod calls;
pub(crate) mod keeper;
pub(crate) mod lease;
pub(crate) mod member;
mod ownership;
mod reach;
pub(crate) mod view;

//! The JSON objects of the event format, borrowed from the payload.
//!
//! Every field is optional here; the decoder checks which must be present. A field of the wrong type fails the whole
//! parse, and [`super::classify`] then finds out which. Fields that nothing reads are skipped and their names kept.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::ops::Deref;

use serde::de::value::BorrowedStrDeserializer;
use serde::de::{
    Deserialize, Deserializer, Error, IgnoredAny, IntoDeserializer, MapAccess, SeqAccess, Visitor,
};

/// Text, borrowed from the payload unless it contains escapes.
#[derive(Debug)]
pub(super) struct Text<'a>(Cow<'a, str>);

impl Deref for Text<'_> {
    type Target = str;
    fn deref(&self) -> &str {
        &self.0
    }
}

/// One value of an attribute.
#[derive(Debug)]
pub(super) enum Scalar<'a> {
    Text(Text<'a>),
    Bool(bool),
    Integer(i64),
    Unsigned(u64),
    Float(f64),
    Null,
}

/// `value` or `[value, ..]`.
#[derive(Debug)]
pub(super) enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        match self {
            OneOrMany::One(value) => std::slice::from_ref(value),
            OneOrMany::Many(values) => values,
        }
    }
}

/// An object with arbitrary names, as pairs in the order of the payload.
#[derive(Debug)]
pub(super) struct Pairs<'a, V>(pub(super) Vec<(Text<'a>, V)>);

/// Values by name: strings, numbers, booleans, or lists of them.
pub(super) type Features<'a> = Pairs<'a, OneOrMany<Scalar<'a>>>;

/// Names of fields as texts of their own.
pub(super) fn names(fields: &[Text<'_>]) -> Vec<String> {
    fields.iter().map(|name| (**name).to_owned()).collect()
}

/// Declares an object of the event format: its fields, and fields that are accepted and not read. The names of others are
/// kept.
macro_rules! object {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $ty:ty,)* } ignored { $($ignored:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Default)]
        pub(super) struct $name<'a> {
            $(pub(super) $field: Option<$ty>,)*
            /// Fields whose value is null.
            pub(super) nulls: Vec<&'static str>,
            /// Names of the fields that nothing reads.
            pub(super) unread: Vec<Text<'a>>,
        }

        impl<'de> Deserialize<'de> for $name<'de> {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Fields;
                impl<'de> Visitor<'de> for Fields {
                    type Value = $name<'de>;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str("an object")
                    }
                    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                        let mut object = $name::default();
                        while let Some(key) = map.next_key::<Text<'de>>()? {
                            match &*key {
                                $(stringify!($field) => {
                                    object.$field = map.next_value()?;
                                    if object.$field.is_none() {
                                        object.nulls.push(stringify!($field));
                                    }
                                })*
                                $($ignored => {
                                    map.next_value::<IgnoredAny>()?;
                                })*
                                _ => {
                                    map.next_value::<IgnoredAny>()?;
                                    object.unread.push(key);
                                }
                            }
                        }
                        Ok(object)
                    }
                }
                deserializer.deserialize_map(Fields)
            }
        }
    };
}

object! {
    /// A record of the impressions topic.
    Impression {
        request_id: Text<'a>,
        user_id: Text<'a>,
        ts_ms: i64,
        items: Vec<SlateItem<'a>>,
        context: Features<'a>,
    } ignored { "served_by", }
}

object! {
    /// One item of a slate.
    SlateItem {
        item_id: Text<'a>,
        position: u16,
        features: Features<'a>,
    } ignored {}
}

object! {
    /// A record of the actions topic.
    Action {
        request_id: Text<'a>,
        item_id: Text<'a>,
        user_id: Text<'a>,
        ts_ms: i64,
        action: Text<'a>,
        value: f32,
    } ignored {}
}

object! {
    /// A record of the users topic.
    User {
        user_id: Text<'a>,
        ts_ms: i64,
        features: Features<'a>,
        deleted: bool,
        partial: bool,
    } ignored {}
}

object! {
    /// A record of the items topic.
    Item {
        item_id: Text<'a>,
        ts_ms: i64,
        category: OneOrMany<Text<'a>>,
        author: OneOrMany<Text<'a>>,
        title: Text<'a>,
        text: OneOrMany<Text<'a>>,
        image: Text<'a>,
        vectors: Pairs<'a, Vec<f32>>,
        features: Features<'a>,
        deleted: bool,
        partial: bool,
    } ignored {}
}

impl<'de> Deserialize<'de> for Text<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrow;
        impl<'de> Visitor<'de> for Borrow {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrow)
    }
}

impl<'de> Deserialize<'de> for Scalar<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AnyScalar;
        impl<'de> Visitor<'de> for AnyScalar {
            type Value = Scalar<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a number, a boolean or null")
            }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Text(Cow::Borrowed(text))))
            }
            fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Scalar::Text(Text(Cow::Owned(text.to_owned()))))
            }
            fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
                Ok(Scalar::Bool(value))
            }
            fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
                Ok(Scalar::Integer(value))
            }
            fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
                Ok(Scalar::Unsigned(value))
            }
            fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
                Ok(Scalar::Float(value))
            }
            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                Ok(Scalar::Null)
            }
        }
        deserializer.deserialize_any(AnyScalar)
    }
}

/// Visits one scalar as the only value of a [`OneOrMany`].
macro_rules! visit_one {
    ($($visit:ident: $ty:ty,)*) => {
        $(fn $visit<E: Error>(self, value: $ty) -> Result<Self::Value, E> {
            T::deserialize(value.into_deserializer()).map(OneOrMany::One)
        })*
    };
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Either<T> {
            type Value = OneOrMany<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value or a list of values")
            }
            visit_one! { visit_str: &str, visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, }
            fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
                T::deserialize(BorrowedStrDeserializer::new(text)).map(OneOrMany::One)
            }
            fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
                T::deserialize(().into_deserializer()).map(OneOrMany::One)
            }
            fn visit_seq<S: SeqAccess<'de>>(self, mut list: S) -> Result<Self::Value, S::Error> {
                let mut values = Vec::new();
                while let Some(value) = list.next_element()? {
                    values.push(value);
                }
                Ok(OneOrMany::Many(values))
            }
        }
        deserializer.deserialize_any(Either(PhantomData))
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<'de, V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Names<V>(PhantomData<V>);
        impl<'de, V: Deserialize<'de>> Visitor<'de> for Names<V> {
            type Value = Pairs<'de, V>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Names(PhantomData))
    }
}

//! A file's worth of named arrays, with getters that say exactly what did not fit.

use std::borrow::Cow;
use std::collections::BTreeMap;

use crate::array::shape_text;
use crate::{ANY, Array, Dtype, Element, Error};

/// Longest array name, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 256;

/// Named arrays in order of name.
#[derive(Clone, Debug)]
pub struct Arrays {
    /// Where they were read from, for messages.
    file: String,
    arrays: BTreeMap<String, Array>,
}

impl Default for Arrays {
    fn default() -> Self {
        Self {
            file: "a draft".to_owned(),
            arrays: BTreeMap::new(),
        }
    }
}

/// Equal names and equal arrays, wherever they came from.
impl PartialEq for Arrays {
    fn eq(&self, other: &Self) -> bool {
        self.arrays == other.arrays
    }
}

impl Arrays {
    /// No arrays.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    pub(crate) fn of_file(file: String) -> Self {
        Self {
            file,
            arrays: BTreeMap::new(),
        }
    }

    /// Adds an array.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the name is taken, empty, longer than 256 bytes, reserved or has a control
    /// character; nothing is added then.
    pub fn insert(&mut self, name: impl Into<String>, array: Array) -> Result<(), Error> {
        let name = name.into();
        if let Err(why) = check_name(&name) {
            return Err(Error::invalid(name, why));
        }
        if self.arrays.contains_key(&name) {
            return Err(Error::invalid(name, "an array of that name is there already"));
        }
        self.arrays.insert(name, array);
        Ok(())
    }

    /// How many arrays there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.arrays.len()
    }

    /// True when there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.arrays.is_empty()
    }

    /// Every array with its name, in order of name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.arrays.iter().map(|(name, array)| (name.as_str(), array))
    }

    /// The array called `name`, whatever it holds.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Array> {
        self.arrays.get(name)
    }

    /// The array called `name`.
    ///
    /// # Errors
    /// [`Error::MissingArray`].
    pub fn array(&self, name: &str) -> Result<&Array, Error> {
        self.arrays.get(name).ok_or_else(|| self.missing(name))
    }

    /// The values of the array called `name`.
    ///
    /// # Shapes
    /// `shape` is what the array must have; [`ANY`] stands for any size of that dimension.
    ///
    /// # Errors
    /// [`Error::MissingArray`], [`Error::WrongDtype`] or [`Error::WrongShape`].
    pub fn values<T: Element>(&self, name: &str, shape: &[usize]) -> Result<Cow<'_, [T]>, Error> {
        let array = self.array(name)?;
        self.check(name, array, T::DTYPE, shape)?;
        array
            .values()
            .ok_or_else(|| self.wrong_dtype(name, T::DTYPE, array.dtype()))
    }

    /// Takes the array called `name` out, without a copy when it was read from a snapshot.
    ///
    /// # Shapes
    /// As for [`Arrays::values`].
    ///
    /// # Errors
    /// As for [`Arrays::values`]; the array stays then.
    pub fn take<T: Element>(&mut self, name: &str, shape: &[usize]) -> Result<Vec<T>, Error> {
        self.check(name, self.array(name)?, T::DTYPE, shape)?;
        let array = self.arrays.remove(name).ok_or_else(|| self.missing(name))?;
        array
            .into_values()
            .map_err(|array| self.wrong_dtype(name, T::DTYPE, array.dtype()))
    }

    /// The one value of the array called `name`, of shape `[]`.
    ///
    /// # Errors
    /// As for [`Arrays::values`].
    pub fn scalar<T: Element>(&self, name: &str) -> Result<T, Error> {
        let values = self.values::<T>(name, &[])?;
        Ok(*values.first().expect("an array of shape [] has one value"))
    }

    fn check(&self, name: &str, array: &Array, dtype: Dtype, shape: &[usize]) -> Result<(), Error> {
        if array.dtype() != dtype {
            return Err(self.wrong_dtype(name, dtype, array.dtype()));
        }
        let fits = array.shape().len() == shape.len()
            && array
                .shape()
                .iter()
                .zip(shape)
                .all(|(found, expected)| *expected == ANY || found == expected);
        if fits {
            return Ok(());
        }
        Err(Error::WrongShape {
            array: name.to_owned(),
            file: self.file.clone(),
            expected: shape_text(shape),
            found: shape_text(array.shape()),
        })
    }

    fn missing(&self, name: &str) -> Error {
        const N_SHOWN: usize = 12;
        let mut known = self
            .arrays
            .keys()
            .take(N_SHOWN)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        if self.arrays.is_empty() {
            "no arrays".clone_into(&mut known);
        } else if self.arrays.len() > N_SHOWN {
            known.push_str(&format!(" and {} more", self.arrays.len() - N_SHOWN));
        }
        Error::MissingArray {
            array: name.to_owned(),
            file: self.file.clone(),
            known,
        }
    }

    fn wrong_dtype(&self, name: &str, expected: Dtype, found: Dtype) -> Error {
        Error::WrongDtype {
            array: name.to_owned(),
            file: self.file.clone(),
            expected,
            found,
        }
    }
}

/// What is wrong with an array's name, if anything.
pub(crate) fn check_name(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        Err("its name is empty")
    } else if name.len() > MAX_NAME_BYTES {
        Err("its name is longer than 256 bytes")
    } else if name == "__metadata__" {
        Err("safetensors reserves that name")
    } else if name.chars().any(char::is_control) {
        Err("its name has a control character")
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrays() -> Arrays {
        let mut arrays = Arrays::of_file("rows.safetensors".to_owned());
        arrays
            .insert(
                "rows",
                Array::new(&[2, 3], vec![1f32, 2.0, 3.0, 4.0, 5.0, 6.0]).unwrap(),
            )
            .unwrap();
        arrays.insert("seq", Array::scalar(9u64)).unwrap();
        arrays
    }

    #[test]
    fn a_getter_names_the_array_the_file_and_what_did_not_fit() {
        let arrays = arrays();
        let check = |result: Result<Cow<'_, [f32]>, Error>, message: &str| {
            assert_eq!(result.unwrap_err().to_string(), message);
        };
        check(
            arrays.values("bias", &[3]),
            "array `bias` is missing from rows.safetensors, which has: rows, seq",
        );
        check(
            arrays.values("seq", &[]),
            "array `seq` of rows.safetensors holds u64, expected f32",
        );
        check(
            arrays.values("rows", &[ANY, 4]),
            "array `rows` of rows.safetensors has shape [2, 3], expected [*, 4]",
        );
        check(
            arrays.values("rows", &[6]),
            "array `rows` of rows.safetensors has shape [2, 3], expected [6]",
        );
        assert_eq!(arrays.values::<f32>("rows", &[ANY, 3]).unwrap().len(), 6);
        assert_eq!(arrays.scalar::<u64>("seq").unwrap(), 9);
    }

    #[test]
    fn a_failed_take_leaves_the_array() {
        let mut arrays = arrays();
        assert!(arrays.take::<f32>("rows", &[3, 2]).is_err());
        assert!(arrays.take::<u8>("rows", &[2, 3]).is_err());
        assert_eq!(
            arrays.take::<f32>("rows", &[2, 3]).unwrap(),
            [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
        );
        assert!(arrays.take::<f32>("rows", &[2, 3]).is_err());
    }

    #[test]
    fn bad_names_are_refused() {
        let mut arrays = arrays();
        for name in ["", "rows", "__metadata__", "a\nb", &"x".repeat(257)] {
            assert!(arrays.insert(name, Array::scalar(1u8)).is_err(), "{name}");
        }
        assert_eq!(arrays.len(), 2);
    }
}

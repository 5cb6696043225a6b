"""The kernel's programs, compiled beforehand: `file` reads them, `building` compiles and finds them, `loading` loads them."""

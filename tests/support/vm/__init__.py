"""Other kernels, in virtual machines without KVM: Debian's kernels, a guest that boots in seconds, the product inside it.

    with Guest(kernel_files(KERNELS["6.1-amd64"])) as guest:
        guest.call("about")

How it fits together:

- `kernels` and `debian` get kernels, and the few packages a guest's Python is made of, from Debian's archive into a cache.
- `userland` makes of those packages and of the locked wheels what is the same in every guest of an architecture.
- What the socket tap was compiled to is in a guest as a package brings it: there is no compiler inside.
- `guest` boots a kernel with all of that as its initramfs (no disk, no network, no shared folder) and calls `inside/scenes.py`.
- `inside/` runs in the guest: process 1 and the scenes.

The product's own Python runs in the guest, not a probe written for it: what is asked is whether loader, tap, tables and
identity work on that kernel, and a second implementation of any of them could be right where the product is wrong.
"""

// A file system whose machine can lose power: what is written is there for all to read, and on the disk once it is synced.
//
//	power_cut CACHE DISK MOUNT
//
// shows the folder CACHE at MOUNT and keeps in DISK what would be left without power: names as they are made, renamed and removed,
// and of each file the content that it had when it was last synced. That is what POSIX promises and no more: a journaling file
// system loses no less than this of what nobody synced, if it is asked at the wrong moment. Killed, it leaves DISK.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

type node struct {
	fs.LoopbackNode
	disk string
	lock *sync.Mutex // names and contents change one at a time, as in a journal
}

var (
	_ = (fs.NodeFsyncer)((*node)(nil))
	_ = (fs.NodeOpener)((*node)(nil))
	_ = (fs.NodeCreater)((*node)(nil))
	_ = (fs.NodeMkdirer)((*node)(nil))
	_ = (fs.NodeRmdirer)((*node)(nil))
	_ = (fs.NodeUnlinker)((*node)(nil))
	_ = (fs.NodeRenamer)((*node)(nil))
	_ = (fs.NodeSetattrer)((*node)(nil))
)

func (n *node) onDisk(names ...string) string {
	return filepath.Join(append([]string{n.disk, n.Path(nil)}, names...)...)
}

func (n *node) inCache() string { return filepath.Join(n.RootData.Path, n.Path(nil)) }

// settled is the outcome of a change to both; one that only the disk refuses ends the file system, since it would show a falsehood.
func settled(outcome syscall.Errno, change error) syscall.Errno {
	if outcome == 0 && change != nil {
		fmt.Fprintln(os.Stderr, "power_cut:", change)
		os.Exit(1)
	}
	return outcome
}

// file keeps the kernel from writing past us to the file in CACHE. It tells of what was written with O_SYNC as it does of fsync, but
// only where it writes through us: past us, such a write would be on the disk of any machine and not on this one.
type file struct{ *fs.LoopbackFile }

func (file) PassthroughFd() (int, bool) { return 0, false }

func seen(handle fs.FileHandle) fs.FileHandle {
	if loopback, ok := handle.(*fs.LoopbackFile); ok {
		return file{loopback}
	}
	return handle
}

func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	handle, fuseFlags, outcome := n.LoopbackNode.Open(ctx, flags)
	return seen(handle), fuseFlags, outcome
}

func (n *node) Fsync(_ context.Context, _ fs.FileHandle, _ uint32) syscall.Errno {
	n.lock.Lock()
	defer n.lock.Unlock()
	if n.IsDir() {
		return 0
	}
	return settled(0, copied(n.inCache(), n.onDisk()))
}

// copied replaces the content of one file by another's, in one step.
func copied(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return nil // removed while it was open: nobody will find it again
	}
	defer source.Close()
	fresh, err := os.CreateTemp(filepath.Dir(to), ".synced-")
	if err != nil {
		return err
	}
	defer fresh.Close()
	if _, err = io.Copy(fresh, source); err != nil {
		return err
	}
	return os.Rename(fresh.Name(), to)
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	n.lock.Lock()
	defer n.lock.Unlock()
	inode, handle, fuseFlags, outcome := n.LoopbackNode.Create(ctx, name, flags, mode, out)
	handle = seen(handle)
	made, err := os.OpenFile(n.onDisk(name), os.O_CREATE|os.O_WRONLY, 0o600)
	if err == nil {
		err = made.Close()
	}
	return inode, handle, fuseFlags, settled(outcome, err)
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	n.lock.Lock()
	defer n.lock.Unlock()
	inode, outcome := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	return inode, settled(outcome, os.MkdirAll(n.onDisk(name), 0o700))
}

func (n *node) Rmdir(ctx context.Context, name string) syscall.Errno {
	n.lock.Lock()
	defer n.lock.Unlock()
	outcome := n.LoopbackNode.Rmdir(ctx, name)
	if outcome != 0 {
		return outcome
	}
	return settled(0, os.RemoveAll(n.onDisk(name)))
}

func (n *node) Unlink(ctx context.Context, name string) syscall.Errno {
	n.lock.Lock()
	defer n.lock.Unlock()
	outcome := n.LoopbackNode.Unlink(ctx, name)
	if outcome != 0 {
		return outcome
	}
	return settled(0, os.RemoveAll(n.onDisk(name)))
}

func (n *node) Rename(ctx context.Context, name string, parent fs.InodeEmbedder, newName string, flags uint32) syscall.Errno {
	n.lock.Lock()
	defer n.lock.Unlock()
	outcome := n.LoopbackNode.Rename(ctx, name, parent, newName, flags)
	if outcome != 0 {
		return outcome
	}
	to := filepath.Join(n.disk, parent.EmbeddedInode().Path(nil), newName)
	return settled(0, os.Rename(n.onDisk(name), to))
}

func (n *node) Setattr(ctx context.Context, handle fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	n.lock.Lock()
	defer n.lock.Unlock()
	outcome := n.LoopbackNode.Setattr(ctx, handle, in, out)
	size, resized := in.GetSize()
	if outcome != 0 || !resized {
		return outcome
	}
	kept, err := os.Stat(n.onDisk())
	if err == nil && uint64(kept.Size()) > size {
		err = os.Truncate(n.onDisk(), int64(size))
	}
	return settled(0, err)
}

func main() {
	cache, disk, mount := os.Args[1], os.Args[2], os.Args[3]
	root := &fs.LoopbackRoot{Path: cache}
	lock := &sync.Mutex{}
	root.NewNode = func(data *fs.LoopbackRoot, _ *fs.Inode, _ string, _ *syscall.Stat_t) fs.InodeEmbedder {
		return &node{LoopbackNode: fs.LoopbackNode{RootData: data}, disk: disk, lock: lock}
	}
	first := &node{LoopbackNode: fs.LoopbackNode{RootData: root}, disk: disk, lock: lock}
	root.RootNode = first
	server, err := fs.Mount(mount, first, &fs.Options{MountOptions: fuse.MountOptions{DirectMountStrict: true, FsName: "power_cut"}})
	if err != nil {
		fmt.Fprintln(os.Stderr, "power_cut:", err)
		os.Exit(1)
	}
	fmt.Println("mounted")
	server.Wait()
}

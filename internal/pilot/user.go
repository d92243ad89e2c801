package pilot

import (
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"gondola"
)

// identity resolves who a container runs as, from its image's /etc/passwd and /etc/group, and its home directory.
func identity(spec *Spec, c *Container) (Identity, string, error) {
	var sec gondola.Security
	if c.Config.Gondola != nil && c.Config.Gondola.Security != nil {
		sec = *c.Config.Gondola.Security
	}
	passwd, group := database(c.Tree, "etc/passwd"), database(c.Tree, "etc/group")
	user, groupName, hasGroup := strings.Cut(c.User, ":")
	if sec.User != nil {
		user, hasGroup = strconv.FormatInt(*sec.User, 10), false
	}
	if sec.NonRoot && sec.User == nil {
		if _, err := strconv.ParseUint(user, 10, 32); err != nil && user != "" {
			return Identity{}, "", gondola.Errorf(gondola.ErrPrecondition, "container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", user, spec.label(), c.Name)
		}
	}
	id, home := Identity{}, "/"
	if user == "" {
		user = "0"
	}
	entry := find(passwd, user, 2, 7)
	switch uid, err := strconv.ParseUint(user, 10, 32); {
	case entry != nil:
		id.UID, id.GID, home = number(entry[2]), number(entry[3]), entry[5]
		if !sec.StrictGroups {
			id.Groups = memberships(group, entry[0])
		}
	case err == nil:
		id.UID = uint32(uid)
	default:
		return Identity{}, "", gondola.Errorf(gondola.ErrPrecondition, "user %q of container %s is not in its image's /etc/passwd: use a number or a user that is", user, c.Name)
	}
	if hasGroup {
		gid, err := strconv.ParseUint(groupName, 10, 32)
		if entry := find(group, groupName, 2, 3); entry != nil {
			gid = uint64(number(entry[2]))
		} else if err != nil {
			return Identity{}, "", gondola.Errorf(gondola.ErrPrecondition, "group %q of container %s is not in its image's /etc/group: use a number or a group that is", groupName, c.Name)
		}
		id.GID = uint32(gid)
	}
	if sec.Group != nil {
		id.GID = uint32(*sec.Group)
	}
	for _, g := range sec.Groups {
		if !slices.Contains(id.Groups, uint32(g)) {
			id.Groups = append(id.Groups, uint32(g))
		}
	}
	if sec.NonRoot && sec.User != nil && id.UID == 0 {
		return Identity{}, "", gondola.Errorf(gondola.ErrPrecondition, "container's runAsUser breaks non-root policy (pod: %q, container: %s)", spec.label(), c.Name)
	}
	if sec.NonRoot && id.UID == 0 {
		return Identity{}, "", gondola.Errorf(gondola.ErrPrecondition, "container has runAsNonRoot and image will run as root (pod: %q, container: %s)", spec.label(), c.Name)
	}
	return id, home, nil
}

// database reads a file such as /etc/passwd out of an image; links are followed as in the container. One that is missing, or is no regular file, is empty.
func database(tree, name string) [][]string {
	if tree == "" {
		return nil
	}
	f, err := openRegular(tree, name, unix.RESOLVE_IN_ROOT)
	if err != nil {
		return nil
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, 4<<20))
	if err != nil {
		return nil
	}
	var lines [][]string
	for line := range strings.Lines(string(data)) {
		lines = append(lines, strings.Split(strings.TrimRight(line, "\r\n"), ":"))
	}
	return lines
}

// find returns the entry of a name or of a number, which is field n of at least fields.
func find(lines [][]string, want string, n, fields int) []string {
	for _, l := range lines {
		if len(l) >= fields && (l[0] == want || l[n] == want) {
			return l
		}
	}
	return nil
}

// memberships returns the groups that list a user.
func memberships(group [][]string, user string) (gids []uint32) {
	for _, l := range group {
		if len(l) >= 4 && slices.Contains(strings.Split(l[3], ","), user) {
			gids = append(gids, number(l[2]))
		}
	}
	return gids
}

func number(s string) uint32 {
	n, _ := strconv.ParseUint(s, 10, 32)
	return uint32(n)
}

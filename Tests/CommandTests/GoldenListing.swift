/// What dmsetup 1.02.185 on Linux 6.12 printed for the seven devices of `Fixture.volumes`: the command, stdout after "1| ",
/// stderr after "2| ", the exit status. Trailing blanks are real.
let goldenListing = #"""
    $ cairn ls
    1| err	(253:7)
    1| lin	(253:0)
    1| linuuid	(253:2)
    1| multi	(253:1)
    1| ro	(253:3)
    1| str	(253:4)
    1| zer	(253:6)
    rc=0

    $ cairn ls --target linear
    1| lin	(253, 0)
    1| linuuid	(253, 2)
    1| multi	(253, 1)
    1| ro	(253, 3)
    rc=0

    $ cairn ls --target striped
    1| str	(253, 4)
    rc=0

    $ cairn ls -o blkdevname
    1| err	(dm-7)
    1| lin	(dm-0)
    1| linuuid	(dm-2)
    1| multi	(dm-1)
    1| ro	(dm-3)
    1| str	(dm-4)
    1| zer	(dm-6)
    rc=0

    $ cairn ls -o devname
    1| err	(err)
    1| lin	(lin)
    1| linuuid	(linuuid)
    1| multi	(multi)
    1| ro	(ro)
    1| str	(str)
    1| zer	(zer)
    rc=0

    $ cairn ls -o devno
    1| err	(253:7)
    1| lin	(253:0)
    1| linuuid	(253:2)
    1| multi	(253:1)
    1| ro	(253:3)
    1| str	(253:4)
    1| zer	(253:6)
    rc=0

    $ cairn ls --tree
    1| err (253:7)
    1| linuuid (253:2)
    1|  `-lin (253:0)
    1|     `- (254:16)
    1| multi (253:1)
    1|  |- (254:32)
    1|  `- (254:16)
    1| ro (253:3)
    1|  `- (254:16)
    1| str (253:4)
    1|  |- (254:32)
    1|  `- (254:16)
    1| zer (253:6)
    rc=0

    $ cairn ls --tree -o ascii
    1| err (253:7)
    1| linuuid (253:2)
    1|  `-lin (253:0)
    1|     `- (254:16)
    1| multi (253:1)
    1|  |- (254:32)
    1|  `- (254:16)
    1| ro (253:3)
    1|  `- (254:16)
    1| str (253:4)
    1|  |- (254:32)
    1|  `- (254:16)
    1| zer (253:6)
    rc=0

    $ cairn ls --tree -o ascii,uuid,status,active,open,rw
    1| err (253:7) [ACTIVE, RW, 0, ]
    1| linuuid (253:2) [ACTIVE, RW, 0, FIX-0123456789]
    1|  `-lin (253:0) [ACTIVE, RW, 1, ]
    1|     `- (254:16)
    1| multi (253:1) [ACTIVE, RW, 0, ]
    1|  |- (254:32)
    1|  `- (254:16)
    1| ro (253:3) [ACTIVE, RO, 0, ]
    1|  `- (254:16)
    1| str (253:4) [ACTIVE, RW, 0, ]
    1|  |- (254:32)
    1|  `- (254:16)
    1| zer (253:6) [ACTIVE, RW, 0, ]
    rc=0

    $ cairn ls --tree -o ascii,inverted
    1| err (253:7)
    1|  (254:16)
    1|  |-lin (253:0)
    1|  |  `-linuuid (253:2)
    1|  |-multi (253:1)
    1|  |-ro (253:3)
    1|  `-str (253:4)
    1|  (254:32)
    1|  |-multi (253:1)
    1|  `-str (253:4)
    1| zer (253:6)
    rc=0

    $ cairn ls --tree -o ascii,compact
    1| err (253:7)
    1| linuuid (253:2)---lin (253:0)--- (254:16)
    1| multi (253:1)-+- (254:32)
    1|               `- (254:16)
    1| ro (253:3)--- (254:16)
    1| str (253:4)-+- (254:32)
    1|             `- (254:16)
    1| zer (253:6)
    rc=0

    $ cairn ls --tree -o ascii,blkdevname,nodevice
    1| err <dm-7>
    1| linuuid <dm-2>
    1|  `-lin <dm-0>
    1|     `- <vdb>
    1| multi <dm-1>
    1|  |- <vdc>
    1|  `- <vdb>
    1| ro <dm-3>
    1|  `- <vdb>
    1| str <dm-4>
    1|  |- <vdc>
    1|  `- <vdb>
    1| zer <dm-6>
    rc=0

    $ cairn ls --tree -o ascii,notrunc,blkdevs
    2| Tree options not recognised: blkdevs.
    2| Couldn't process command line.
    rc=1

    $ cairn info -c
    1| Name             Maj Min Stat Open Targ Event  UUID                            
    1| err              253   7 L--w    0    1      0                                 
    1| lin              253   0 L--w    1    1      0                                 
    1| linuuid          253   2 L--w    0    1      0 FIX-0123456789                  
    1| multi            253   1 L--w    0    3      0                                 
    1| ro               253   3 L--r    0    1      0                                 
    1| str              253   4 L--w    0    1      0                                 
    1| zer              253   6 L--w    0    1      0                                 
    rc=0

    $ cairn info -C --noheadings -o name,major,minor,attr,open,segments,events,uuid
    1| err:253:7:L--w:0:1:0:
    1| lin:253:0:L--w:1:1:0:
    1| linuuid:253:2:L--w:0:1:0:FIX-0123456789
    1| multi:253:1:L--w:0:3:0:
    1| ro:253:3:L--r:0:1:0:
    1| str:253:4:L--w:0:1:0:
    1| zer:253:6:L--w:0:1:0:
    rc=0

    $ cairn info -c --noheadings --separator : -o name,attr
    1| err:L--w
    1| lin:L--w
    1| linuuid:L--w
    1| multi:L--w
    1| ro:L--r
    1| str:L--w
    1| zer:L--w
    rc=0

    $ cairn info -c --sort open,-name
    1| Name             Maj Min Stat Open Targ Event  UUID                            
    1| zer              253   6 L--w    0    1      0                                 
    1| str              253   4 L--w    0    1      0                                 
    1| ro               253   3 L--r    0    1      0                                 
    1| multi            253   1 L--w    0    3      0                                 
    1| linuuid          253   2 L--w    0    1      0 FIX-0123456789                  
    1| err              253   7 L--w    0    1      0                                 
    1| lin              253   0 L--w    1    1      0                                 
    rc=0

    $ cairn info -c --nameprefixes --unquoted --noheadings -o name,open
    1| DM_NAME=err:DM_OPEN=0
    1| DM_NAME=lin:DM_OPEN=1
    1| DM_NAME=linuuid:DM_OPEN=0
    1| DM_NAME=multi:DM_OPEN=0
    1| DM_NAME=ro:DM_OPEN=0
    1| DM_NAME=str:DM_OPEN=0
    1| DM_NAME=zer:DM_OPEN=0
    rc=0

    $ cairn info -c -o name,tables_loaded,readonly,suspended,device_count,blkdevname,devs_used,devnos_used,blkdevs_used,device_ref_count,names_using_dev,devnos_using_dev
    1| Name             Tables Read-only Suspended #Devs BlkDevName       DevNamesUsed     DevNosUsed       BlkDevNamesUsed  #Refs RefNames RefDevNos
    1| err              Live   Writeable Active        0 dm-7                                                                    0                   
    1| lin              Live   Writeable Active        1 dm-0                              254:16           vdb                  1 linuuid  253:2    
    1| linuuid          Live   Writeable Active        1 dm-2             lin              253:0            dm-0                 0                   
    1| multi            Live   Writeable Active        2 dm-1                              254:32,254:16    vdc,vdb              0                   
    1| ro               Live   Read-only Active        1 dm-3                              254:16           vdb                  0                   
    1| str              Live   Writeable Active        2 dm-4                              254:32,254:16    vdc,vdb              0                   
    1| zer              Live   Writeable Active        0 dm-6                                                                    0                   
    rc=0

    $ cairn info
    1| Name:              err
    1| State:             ACTIVE
    1| Read Ahead:        256
    1| Tables present:    LIVE
    1| Open count:        0
    1| Event number:      0
    1| Major, minor:      253, 7
    1| Number of targets: 1
    1| 
    1| Name:              lin
    1| State:             ACTIVE
    1| Read Ahead:        256
    1| Tables present:    LIVE
    1| Open count:        1
    1| Event number:      0
    1| Major, minor:      253, 0
    1| Number of targets: 1
    1| 
    1| Name:              linuuid
    1| State:             ACTIVE
    1| Read Ahead:        256
    1| Tables present:    LIVE
    1| Open count:        0
    1| Event number:      0
    1| Major, minor:      253, 2
    1| Number of targets: 1
    1| UUID: FIX-0123456789
    1| 
    1| Name:              multi
    1| State:             ACTIVE
    1| Read Ahead:        256
    1| Tables present:    LIVE
    1| Open count:        0
    1| Event number:      0
    1| Major, minor:      253, 1
    1| Number of targets: 3
    1| 
    1| Name:              ro
    1| State:             ACTIVE (READ-ONLY)
    1| Read Ahead:        256
    1| Tables present:    LIVE
    1| Open count:        0
    1| Event number:      0
    1| Major, minor:      253, 3
    1| Number of targets: 1
    1| 
    1| Name:              str
    1| State:             ACTIVE
    1| Read Ahead:        512
    1| Tables present:    LIVE
    1| Open count:        0
    1| Event number:      0
    1| Major, minor:      253, 4
    1| Number of targets: 1
    1| 
    1| Name:              zer
    1| State:             ACTIVE
    1| Read Ahead:        256
    1| Tables present:    LIVE
    1| Open count:        0
    1| Event number:      0
    1| Major, minor:      253, 6
    1| Number of targets: 1
    1| 
    rc=0

    $ cairn status
    1| err: 0 20480 error 
    1| lin: 0 20480 linear 
    1| linuuid: 0 8 linear 
    1| multi: 0 2048 linear 
    1| multi: 2048 4096 linear 
    1| multi: 6144 100 zero 
    1| ro: 0 2048 linear 
    1| str: 0 40960 striped 2 254:16 254:32 1 AA
    1| zer: 0 20480 zero 
    rc=0

    $ cairn table
    1| err: 0 20480 error 
    1| lin: 0 20480 linear 254:16 0
    1| linuuid: 0 8 linear 253:0 16
    1| multi: 0 2048 linear 254:16 30000
    1| multi: 2048 4096 linear 254:32 8
    1| multi: 6144 100 zero 
    1| ro: 0 2048 linear 254:16 0
    1| str: 0 40960 striped 2 128 254:16 40960 254:32 40960
    1| zer: 0 20480 zero 
    rc=0

    $ cairn status --noflush
    1| err: 0 20480 error 
    1| lin: 0 20480 linear 
    1| linuuid: 0 8 linear 
    1| multi: 0 2048 linear 
    1| multi: 2048 4096 linear 
    1| multi: 6144 100 zero 
    1| ro: 0 2048 linear 
    1| str: 0 40960 striped 2 254:16 254:32 1 AA
    1| zer: 0 20480 zero 
    rc=0

    $ cairn deps
    1| err: 0 dependencies	:
    1| lin: 1 dependencies	: (254, 16)
    1| linuuid: 1 dependencies	: (253, 0)
    1| multi: 2 dependencies	: (254, 32) (254, 16)
    1| ro: 1 dependencies	: (254, 16)
    1| str: 2 dependencies	: (254, 32) (254, 16)
    1| zer: 0 dependencies	:
    rc=0

    $ cairn deps -o devname
    1| err: 0 dependencies	:
    1| lin: 1 dependencies	: (vdb)
    1| linuuid: 1 dependencies	: (lin)
    1| multi: 2 dependencies	: (vdc) (vdb)
    1| ro: 1 dependencies	: (vdb)
    1| str: 2 dependencies	: (vdc) (vdb)
    1| zer: 0 dependencies	:
    rc=0

    $ cairn deps -o blkdevname
    1| err: 0 dependencies	:
    1| lin: 1 dependencies	: (vdb)
    1| linuuid: 1 dependencies	: (dm-0)
    1| multi: 2 dependencies	: (vdc) (vdb)
    1| ro: 1 dependencies	: (vdb)
    1| str: 2 dependencies	: (vdc) (vdb)
    1| zer: 0 dependencies	:
    rc=0

    $ cairn table --target linear
    1| lin: 0 20480 linear 254:16 0
    1| linuuid: 0 8 linear 253:0 16
    1| multi: 0 2048 linear 254:16 30000
    1| multi: 2048 4096 linear 254:32 8
    1| ro: 0 2048 linear 254:16 0
    rc=0

    $ cairn status --target zero
    1| multi: 6144 100 zero 
    1| zer: 0 20480 zero 
    rc=0

    $ cairn info -c -S name=lin
    1| Name             Maj Min Stat Open Targ Event  UUID                            
    1| lin              253   0 L--w    1    1      0                                 
    rc=0

    $ cairn ls -S name=str
    1| err	(253:7)
    1| lin	(253:0)
    1| linuuid	(253:2)
    1| multi	(253:1)
    1| ro	(253:3)
    1| str	(253:4)
    1| zer	(253:6)
    rc=0

    $ cairn info -j 252 -m 0
    2| Device does not exist.
    2| Command failed.
    rc=1

    $ cairn splitname vg-lv-x
    1| VG   LV   LVLayer
    1| vg   lv   x      
    rc=0

    $ cairn mangle
    1| err: [no UUID]: name already in correct form
    1| lin: [no UUID]: name already in correct form
    1| linuuid: FIX-0123456789: name and UUID already in correct form
    1| multi: [no UUID]: name already in correct form
    1| ro: [no UUID]: name already in correct form
    1| str: [no UUID]: name already in correct form
    1| zer: [no UUID]: name already in correct form
    rc=0

    $ cairn info -c linuuid lin
    1| Name             Maj Min Stat Open Targ Event  UUID                            
    1| linuuid          253   2 L--w    0    1      0 FIX-0123456789                  
    1| lin              253   0 L--w    1    1      0                                 
    rc=0
    """#

# Installation: libraries, headers, the program, its model, pkg-config files and a CMake package.
include(CMakePackageConfigHelpers)

set(shared_libraries fgattn)
set(static_libraries fgattn_static)
set(headers include/fgattn.h include/fgattn_inspect.h)
set(pkgconfig_files fgattn)
if(FGATTN_VIDEO)
  list(APPEND shared_libraries fgvideo)
  list(APPEND static_libraries fgvideo_static)
  list(APPEND headers include/fgvideo.h)
  list(APPEND pkgconfig_files fgvideo)
endif()

foreach(library ${shared_libraries})
  target_include_directories(${library} INTERFACE $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
                                                  $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
endforeach()

install(TARGETS ${shared_libraries} EXPORT fgattn-targets LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(TARGETS ${static_libraries} ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(FILES ${headers} DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(EXPORT fgattn-targets NAMESPACE fgattn:: DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fgattn)

file(WRITE ${PROJECT_BINARY_DIR}/fgattn-config.cmake.in
     "@PACKAGE_INIT@\ninclude(CMakeFindDependencyMacro)\nfind_dependency(Threads)\n"
     "include(\${CMAKE_CURRENT_LIST_DIR}/fgattn-targets.cmake)\n")
configure_package_config_file(${PROJECT_BINARY_DIR}/fgattn-config.cmake.in ${PROJECT_BINARY_DIR}/fgattn-config.cmake
                              INSTALL_DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fgattn)
write_basic_package_version_file(${PROJECT_BINARY_DIR}/fgattn-config-version.cmake COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/fgattn-config.cmake ${PROJECT_BINARY_DIR}/fgattn-config-version.cmake
        DESTINATION ${CMAKE_INSTALL_LIBDIR}/cmake/fgattn)

foreach(name ${pkgconfig_files})
  configure_file(${PROJECT_SOURCE_DIR}/cmake/${name}.pc.in ${PROJECT_BINARY_DIR}/${name}.pc @ONLY)
  install(FILES ${PROJECT_BINARY_DIR}/${name}.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig)
endforeach()

if(FGATTN_VIDEO)
  install(TARGETS fgattn_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR})
  install(FILES docs/fgattn.1 DESTINATION ${CMAKE_INSTALL_MANDIR}/man1)
  install(FILES cli/completion/fgattn.bash DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions
          RENAME fgattn)
  install(DIRECTORY models/toy DESTINATION ${CMAKE_INSTALL_DATADIR}/fgattn/models)
endif()
